module go.pcc.com/rewind

go 1.24.0

require (
	github.com/gofrs/flock v0.13.0
	github.com/google/go-cmp v0.7.0
	github.com/google/renameio/v2 v2.0.1
	github.com/mitchellh/mapstructure v1.5.0
	github.com/moby/sys/mountinfo v0.7.2
	github.com/rogpeppe/go-internal v1.14.1
	golang.org/x/sys v0.41.0
)

require golang.org/x/tools v0.26.0 // indirect
