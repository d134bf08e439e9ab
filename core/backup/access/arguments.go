package access

import (
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/trust"
)

// Arguments say which backend to use, and how. Every module that uses a backend has these arguments.
type Arguments struct {
	Backend         string            `mapstructure:"backend" doc:"mirror, rsync, restic, or a program in /usr/local/lib/rewind/backends."`
	BackendOptions  map[string]any    `mapstructure:"backend_options" keys:"path,repository,password_file" doc:"What the backend needs: mirror and rsync path; restic repository, password_file. By hand: backend_options=repository=/srv/restic,password_file=/root/pw."`
	BackendSHA256   string            `mapstructure:"backend_sha256" doc:"What the program of a backend that is not built in must be, 64 hexadecimal digits."`
	Environment     map[string]string `mapstructure:"environment" secret:"true" doc:"Environment of the backend's tool, such as RESTIC_PASSWORD. Never shown."`
	EnvironmentFile string            `mapstructure:"environment_file" doc:"A file of the same on the server, KEY=VALUE lines. It is read, never run."`
	Host            string            `mapstructure:"host" doc:"Whose backups; default this server's name."`
	StallTimeout    int               `mapstructure:"stall_timeout" doc:"Seconds after which a backend that makes no progress is given up, 10 to 86400."`
}

// Defaults returns the arguments with their default values.
func Defaults() Arguments { return Arguments{Backend: "mirror", StallTimeout: 1800} }

// Validate returns bad_arguments for every argument that is wrong. It does not check BackendOptions; only the backend
// can do that.
func (a Arguments) Validate() error {
	var errs []error
	if a.Backend == "" || strings.ContainsAny(a.Backend, "/\x00") {
		errs = append(errs, ansible.Bad("backend", "%q is no name of a backend", a.Backend))
	}
	if sum, err := hex.DecodeString(a.BackendSHA256); a.BackendSHA256 != "" && (err != nil || len(sum) != 32) {
		errs = append(errs, ansible.Bad("backend_sha256", "is not 64 hexadecimal digits"))
	}
	if strings.ContainsAny(a.Host, "/\x00\n") || strings.HasPrefix(a.Host, ".") {
		errs = append(errs, ansible.Bad("host", "%q is no name of a server", a.Host))
	}
	if a.EnvironmentFile != "" && !filepath.IsAbs(a.EnvironmentFile) {
		errs = append(errs, ansible.Bad("environment_file", "%q is no absolute path", a.EnvironmentFile))
	}
	if a.StallTimeout < 10 || a.StallTimeout > 86400 {
		errs = append(errs, ansible.Bad("stall_timeout", "is %d; it is 10 to 86400 seconds", a.StallTimeout))
	}
	return fault.All(errs...)
}

// Use returns what the arguments say, without the secrets. If Host is not given, it is this server's name.
func (a Arguments) Use() (Use, error) {
	host := a.Host
	if host == "" {
		name, err := os.Hostname()
		if err != nil {
			return Use{}, fault.New(fault.Internal, "this server's name: %w", err).WithHint("name it: host=NAME")
		}
		host = name
	}
	return Use{
		Backend: a.Backend, SHA256: strings.ToLower(a.BackendSHA256), Options: a.BackendOptions, Host: host,
		Stall: time.Duration(a.StallTimeout) * time.Second,
	}, nil
}

// Secrets returns what must not be shown: the environment, and the content of the files that the options ending with
// "_file" name. From then on the output of c hides these. Faults: not_found, bad_arguments.
func (a Arguments) Secrets(c ansible.Call) (Secret, error) {
	s := Secret{Environment: map[string]string{}}
	if a.EnvironmentFile != "" {
		data, err := readTrusted(a.EnvironmentFile)
		if err != nil {
			return s, err
		}
		if s.Environment, err = ParseEnvironment(string(data)); err != nil {
			return s, fault.New(fault.BadArguments, "environment_file %s: %w", a.EnvironmentFile, err)
		}
	}
	for key, value := range a.Environment {
		s.Environment[key] = value
	}
	for _, value := range s.Environment {
		c.Secret(value)
	}
	for key, value := range a.BackendOptions {
		path, ok := value.(string)
		if !ok || !strings.HasSuffix(key, "_file") {
			continue
		}
		if secret, ok := readSecret(path); ok {
			s.Hide = append(s.Hide, secret)
		}
	}
	c.Secret(s.Hide...)
	return s, nil
}

// readSecret reads a small file that holds a secret. The backend reports a file that cannot be read, or is no file: to
// read a FIFO would wait for whoever writes to it, and a device may have no end.
func readSecret(path string) (secret string, ok bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() >= 4096 {
		return "", false
	}
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err == nil
}

// maxEnvironment is the largest size of an environment file, in bytes.
const maxEnvironment = 1 << 20

// readTrusted reads the environment file. Its content is given to programs that run as root, so the file is refused if
// anybody else can change it. A FIFO to which nobody writes is empty, and is not waited for.
func readTrusted(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.New(fault.NotFound, "environment_file: %w", err).
			WithHint("it is a file on the server, readable for root")
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil {
		err = trust.File(path, info)
	}
	if err == nil {
		err = trust.Dir(filepath.Dir(path))
	}
	var changeable *trust.Error
	if errors.As(err, &changeable) {
		return nil, ansible.Bad("environment_file", "%v: what it says reaches programs that run as root", err).
			WithHint("%s", changeable.Remedy())
	}
	if err != nil {
		return nil, fault.New(fault.NotFound, "environment_file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxEnvironment+1))
	switch {
	case err != nil:
		return nil, ansible.Bad("environment_file", "%v", err)
	case len(data) > maxEnvironment:
		return nil, ansible.Bad("environment_file", "%s has more than %d bytes", path, maxEnvironment)
	}
	return data, nil
}

// Limit returns the time limit of a run that uses a backend. The run extends it as long as the backend reports
// progress.
func Limit(u Use) time.Duration { return 2*u.Stall + 15*time.Minute }

// QuietLimit returns by how much a run is extended before the backend removes something: it reports no progress then,
// and a tree of millions of files takes hours.
func QuietLimit(u Use) time.Duration { return plugin.QuietFactor*u.Stall + Limit(u) }
