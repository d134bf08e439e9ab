package restic

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// options are backend_options.
type options struct {
	Repository    string `mapstructure:"repository" doc:"an absolute path, or a URL as restic takes it (sftp:…, rest:…, s3:…); one that contains a password belongs in the environment, as RESTIC_REPOSITORY"`
	PasswordFile  string `mapstructure:"password_file" doc:"the file that holds the repository's password; instead of RESTIC_PASSWORD in environment or environment_file"`
	Cache         string `mapstructure:"cache" doc:"the directory of restic's cache; empty: none"`
	Scratch       string `mapstructure:"scratch" doc:"a directory with room for a whole backup, for hosts where restic cannot mount it: without FUSE, and hard links with restic 0.14"`
	LimitUpload   int    `mapstructure:"limit_upload" doc:"KiB/s"`
	LimitDownload int    `mapstructure:"limit_download" doc:"KiB/s"`
}

// defaultCache is the directory of the cache if the option is not given and the directory can be made.
const defaultCache = "/var/cache/rewind/restic"

// repositoryVariable and passwordVariables are the variables with which Config.Environment may name the repository and
// its password.
const repositoryVariable = "RESTIC_REPOSITORY"

var passwordVariables = []string{"RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"}

// parseOptions decodes the options, and checks what can be checked without restic.
func parseOptions(c backup.Config) (options, error) {
	o := options{Cache: defaultCache}
	if err := c.Decode(&o); err != nil {
		return o, err
	}
	return o, fault.All(o.checkRepository(c), o.checkPassword(c), o.checkDirectories(), o.checkLimits())
}

func (o *options) checkRepository(c backup.Config) error {
	if o.Repository == "" {
		o.Repository = c.Environment[repositoryVariable]
	}
	if o.Repository == "" {
		return ansible.Bad("repository", "is missing: where is the restic repository?").
			WithHint("backend_options=repository=/srv/restic,password_file=/root/restic.pw")
	}
	if path, local := o.localPath(); local && !filepath.IsAbs(path) {
		return ansible.Bad("repository", "must be an absolute path, or a URL as restic takes it, such as "+
			"sftp:user@host:/path")
	}
	return nil
}

// remoteScheme matches repositories that are not a local directory.
var remoteScheme = regexp.MustCompile(`^(azure|b2|gs|rclone|rest|s3|sftp|swift):`)

// localPath returns the directory of a local repository, and false for any other repository.
func (o *options) localPath() (string, bool) {
	if remoteScheme.MatchString(o.Repository) {
		return "", false
	}
	return strings.TrimPrefix(o.Repository, "local:"), true
}

// checkPassword checks that a password is given in exactly one way. Without one restic would ask for it, and nobody
// could answer.
func (o *options) checkPassword(c backup.Config) error {
	var given []string
	for _, name := range passwordVariables {
		if c.Environment[name] != "" {
			given = append(given, name)
		}
	}
	if o.PasswordFile == "" && len(given) == 0 {
		return ansible.Bad("password_file", "is missing: name the file that holds the password; or RESTIC_PASSWORD is in "+
			"the argument environment, or in the file that environment_file names; this program's own environment is not "+
			"handed on").
			WithHint("backend_options=repository=/srv/restic,password_file=/root/restic.pw")
	}
	if o.PasswordFile == "" {
		return nil
	}
	if len(given) > 0 {
		return ansible.Bad("password_file", "is given, and the environment has %s too", strings.Join(given, " and "))
	}
	return checkReadable("password_file", o.PasswordFile)
}

// checkReadable checks that an option is the absolute path of a file that can be read.
func checkReadable(name, path string) error {
	if !filepath.IsAbs(path) {
		return ansible.Bad(name, "must be an absolute path")
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // to open a FIFO would wait for whoever writes to it
		return ansible.Bad(name, "%s is not a file", path)
	}
	var file *os.File
	if err == nil {
		file, err = os.Open(path)
	}
	if err != nil {
		return ansible.Bad(name, "%v", err).WithHint("it is a file on this server that root can read, and holds the " +
			"password alone")
	}
	return file.Close()
}

func (o *options) checkDirectories() error {
	var wrong []error
	for name, path := range map[string]string{"cache": o.Cache, "scratch": o.Scratch} {
		if path != "" && !filepath.IsAbs(path) {
			wrong = append(wrong, ansible.Bad(name, "must be an absolute path"))
		}
	}
	if info, err := os.Stat(o.Scratch); filepath.IsAbs(o.Scratch) && (err != nil || !info.IsDir()) {
		wrong = append(wrong, ansible.Bad("scratch", "%s is not a directory", o.Scratch))
	}
	return fault.All(wrong...)
}

func (o *options) checkLimits() error {
	var wrong []error
	for name, n := range map[string]int{"limit_upload": o.LimitUpload, "limit_download": o.LimitDownload} {
		if n < 0 {
			wrong = append(wrong, ansible.Bad(name, "must not be below 0"))
		}
	}
	return fault.All(wrong...)
}

// useCache makes the directory of the cache. If the default directory cannot be made, restic works without a cache,
// only slower. It is an error if a directory that the user has named cannot be made.
func (t *tool) useCache() error {
	if t.options.Cache == "" {
		return nil
	}
	err := durable.MkdirAll(t.options.Cache, 0o700)
	if err != nil && t.options.Cache != defaultCache {
		return ansible.Bad("cache", "%v", err)
	}
	if err != nil {
		t.options.Cache = ""
	}
	return nil
}

// localPaths returns the paths on this host that restic reads or writes.
func (t *tool) localPaths() []string {
	var list []string
	if path, is := t.options.localPath(); is {
		list = append(list, filepath.Clean(path))
	}
	for _, path := range []string{t.options.Cache, t.options.Scratch} {
		if path != "" {
			list = append(list, filepath.Clean(path))
		}
	}
	return list
}

// environ returns the environment of restic. The repository is named there and not in an argument, because its URL may
// contain a password, and everybody on the host can read arguments. RESTIC_HOST of the user is left out: restic 0.17
// and later would list only the backups of that host.
func (t *tool) environ() []string {
	env := slices.DeleteFunc(t.config.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, repositoryVariable) || strings.HasPrefix(kv, "RESTIC_HOST=")
	})
	env = append(env, repositoryVariable+"="+t.options.Repository, "TZ=UTC", "RESTIC_PROGRESS_FPS=1")
	if t.options.PasswordFile != "" {
		env = append(env, "RESTIC_PASSWORD_FILE="+t.options.PasswordFile)
	}
	if t.devices.canBeChosen() && t.config.Environment["RESTIC_FEATURES"] == "" {
		env = append(env, "RESTIC_FEATURES="+deviceFeature)
	}
	return env
}
