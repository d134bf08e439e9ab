package run

import (
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/trust"
)

// Arguments say which backend to use, and how; every module that uses one has them.
type Arguments struct {
	Backend         string            `mapstructure:"backend" doc:"mirror, rsync, restic, or a program in /usr/local/lib/rewind/backends."`
	BackendOptions  map[string]any    `mapstructure:"backend_options" keys:"path,repository,password_file" doc:"What the backend needs: mirror and rsync path; restic repository, password_file. By hand: backend_options=repository=/srv/restic,password_file=/root/pw."`
	BackendSHA256   string            `mapstructure:"backend_sha256" doc:"What the program of a backend that is not built in must be, 64 hexadecimal digits."`
	Environment     map[string]string `mapstructure:"environment" secret:"true" doc:"Environment of the backend's tool, such as RESTIC_PASSWORD. Never shown."`
	EnvironmentFile string            `mapstructure:"environment_file" doc:"A file of the same on the server, KEY=VALUE lines. It is read, never run."`
	Host            string            `mapstructure:"host" doc:"Whose backups; default this server's name."`
	StallTimeout    int               `mapstructure:"stall_timeout" doc:"Seconds after which a backend that makes no progress is given up, 10 to 86400."`
}

// Defaults are the arguments where none is given.
func Defaults() Arguments { return Arguments{Backend: "mirror", StallTimeout: 1800} }

// Validate says what is wrong with them. What a backend makes of its options only it can say.
func (a Arguments) Validate() error {
	var wrong []error
	if a.Backend == "" || strings.ContainsAny(a.Backend, "/\x00") {
		wrong = append(wrong, ansible.Bad("backend", "%q is no name of a backend", a.Backend))
	}
	if sum, err := hex.DecodeString(a.BackendSHA256); a.BackendSHA256 != "" && (err != nil || len(sum) != 32) {
		wrong = append(wrong, ansible.Bad("backend_sha256", "is not 64 hexadecimal digits"))
	}
	if strings.ContainsAny(a.Host, "/\x00\n") || strings.HasPrefix(a.Host, ".") {
		wrong = append(wrong, ansible.Bad("host", "%q is no name of a server", a.Host))
	}
	if a.StallTimeout < 10 || a.StallTimeout > 86400 {
		wrong = append(wrong, ansible.Bad("stall_timeout", "is %d; it is 10 to 86400 seconds", a.StallTimeout))
	}
	return fault.All(wrong...)
}

// Use is what they say beside the secrets.
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

// Secrets reads what must not be shown: the environment, and the passwords in files that the options name. The caller's
// own output hides them from then on.
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
		if data, err := os.ReadFile(path); err == nil && len(data) < 4096 { // the backend says if it cannot be read
			s.Hide = append(s.Hide, strings.TrimSpace(string(data)))
		}
	}
	c.Secret(s.Hide...)
	return s, nil
}

// readTrusted reads a file whose content reaches programs that run as root, so that nobody else may choose it.
func readTrusted(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "environment_file: %w", err).WithHint("it is a file on the server, readable for root")
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil {
		err = trust.File(path, info)
	}
	if err == nil {
		err = trust.Dir(filepath.Dir(path))
	}
	var others *trust.Error
	if errors.As(err, &others) {
		return nil, ansible.Bad("environment_file", "%v: what it says reaches programs that run as root", err).WithHint("%s", others.Remedy())
	}
	if err != nil {
		return nil, fault.New(fault.NotFound, "environment_file: %w", err)
	}
	return io.ReadAll(file)
}

// Limit is how long a journey with a backend may take, unless it extends it, which it does while the backend gets on.
func Limit(u Use) time.Duration { return 2*u.Stall + 15*time.Minute }
