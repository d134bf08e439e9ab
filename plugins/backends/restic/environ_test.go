package restic

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
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

// resticWithFeatures plays a restic of which `restic version` and `restic features` write these texts.
type resticWithFeatures struct {
	command.Streamer
	version, features string
	failed            error // of `restic features`
}

func (r resticWithFeatures) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	switch c.Argv[len(c.Argv)-1] {
	case "version":
		return command.Output{Stdout: "restic " + r.version + " compiled with go1.24.4 on linux/amd64\n"}, nil
	case "features":
		return command.Output{Stdout: r.features}, r.failed
	}
	panic(c.Argv)
}

// restic ends at once if RESTIC_FEATURES names a feature that it does not know, and warns at every call if the feature
// cannot be chosen any more.
func TestFeatureIsChosenOnlyWhereResticOffersIt(t *testing.T) {
	list := func(line string) string {
		return "All Feature Flags:\n" +
			"Name                        Type    Default  Description\n" +
			"--------------------------------------------------------------\n" +
			"backend-error-redesign      beta    true     unlike device-id-for-hardlinks alpha\n" +
			line +
			"explicit-s3-anonymous-auth  stable  true     forbid anonymous S3 authentication\n" +
			"--------------------------------------------------------------\n"
	}
	const feature = "RESTIC_FEATURES=device-id-for-hardlinks"
	for name, c := range map[string]struct {
		restic        resticWithFeatures
		chosen, works bool
	}{
		"before 0.17": {resticWithFeatures{version: "0.16.4", failed: errors.New("unknown command")}, false, false},
		"alpha": {resticWithFeatures{version: "0.18.0", features: list(
			"device-id-for-hardlinks     alpha   false    store deviceID only for hardlinks\n")}, true, true},
		"beta": {resticWithFeatures{version: "0.20.0", features: list(
			"device-id-for-hardlinks     beta    true     store deviceID only for hardlinks\n")}, true, true},
		"stable": {resticWithFeatures{version: "1.0.0", features: list(
			"device-id-for-hardlinks     stable  true     store deviceID only for hardlinks\n")}, false, true},
		"deprecated": {resticWithFeatures{version: "1.0.0", features: list(
			"device-id-for-hardlinks     deprecated false store deviceID only for hardlinks\n")}, false, false},
		"dropped":    {resticWithFeatures{version: "1.0.0", features: list("")}, false, false},
		"no command": {resticWithFeatures{version: "1.0.0", failed: errors.New("unknown command")}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			config := backup.Config{
				Options:     map[string]any{"repository": "/srv/restic", "cache": ""},
				Environment: map[string]string{"RESTIC_PASSWORD": "canary"},
			}
			b := &Backend{run: c.restic}
			tool, err := b.open(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			if env := tool.environ(); slices.Contains(env, feature) != c.chosen {
				t.Errorf("restic gets %v", env)
			}
			d, err := b.Describe(t.Context(), config)
			if err != nil || slices.Contains(d.Features, featureOfDevices) != c.works {
				t.Errorf("described: %+v, %v", d, err)
			}
			config.Environment["RESTIC_FEATURES"] = "own"
			tool, err = b.open(t.Context(), config)
			if err != nil || slices.Contains(tool.environ(), feature) {
				t.Errorf("the user's own choice of features is replaced: %v, %v", tool.environ(), err)
			}
		})
	}
}
