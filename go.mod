module go.pcc.com/rewind

go 1.24.0

require (
	github.com/coreos/go-systemd/v22 v22.6.0
	github.com/gofrs/flock v0.13.0
	github.com/google/go-cmp v0.7.0
	github.com/google/renameio/v2 v2.0.1
	github.com/hashicorp/go-hclog v1.6.3
	github.com/mitchellh/mapstructure v1.5.0
	github.com/moby/sys/mountinfo v0.7.2
	github.com/rogpeppe/go-internal v1.14.1
	golang.org/x/sys v0.41.0
)

require (
	github.com/fatih/color v1.13.0 // indirect
	github.com/godbus/dbus/v5 v5.1.0 // indirect
	github.com/mattn/go-colorable v0.1.12 // indirect
	github.com/mattn/go-isatty v0.0.14 // indirect
	golang.org/x/tools v0.26.0 // indirect
)
