package restic

import (
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
)

// Variables of the user that would choose another repository, or only the backups of one host, are left out.
func TestEnvironmentChoosesNoRepositoryAndNoHost(t *testing.T) {
	c := backup.Config{Environment: map[string]string{
		"RESTIC_HOST": "db1", "RESTIC_REPOSITORY_FILE": "/elsewhere", "AWS_ACCESS_KEY_ID": "key",
	}}
	env := (&tool{config: c, options: options{Repository: "/srv/restic"}}).environ()
	for _, kv := range env {
		if strings.HasPrefix(kv, "RESTIC_HOST=") || strings.HasPrefix(kv, "RESTIC_REPOSITORY_FILE=") {
			t.Errorf("restic gets %s", kv)
		}
	}
	for _, kv := range []string{"RESTIC_REPOSITORY=/srv/restic", "AWS_ACCESS_KEY_ID=key"} {
		if !slices.Contains(env, kv) {
			t.Errorf("restic does not get %s: %v", kv, env)
		}
	}
}
