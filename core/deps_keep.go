//go:build depskeep

package core

import (
	_ "github.com/coreos/go-systemd/v22/dbus"
	_ "github.com/gofrs/flock"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/renameio/v2"
	_ "github.com/hashicorp/go-hclog"
	_ "github.com/mitchellh/mapstructure"
	_ "github.com/moby/sys/mountinfo"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "golang.org/x/sys/unix"
)
