package filesystem

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// InContainer tells whether this system is a container, which cannot manage
// its host's volumes, and which kind. The signs are those of systemd's
// CONTAINER_INTERFACE and of Virtuozzo.
func InContainer() (name string, yes bool) { return inContainer("/") }

// OnHost refuses to work in a container (unsupported).
func OnHost() error {
	name, inside := InContainer()
	if !inside {
		return nil
	}
	return fault.New(fault.Unsupported, "this is a container (%s): its volumes belong to its host", name).
		With("container", name).WithHint("run it on the host")
}

func inContainer(root string) (string, bool) {
	at := func(path string) string { return filepath.Join(root, path) }
	if data, err := os.ReadFile(at("run/systemd/container")); err == nil {
		return orUnknown(strings.TrimSpace(string(data))), true
	}
	environ, _ := os.ReadFile(at("proc/1/environ"))
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte("container=")); ok {
			return orUnknown(string(value)), true
		}
	}
	for _, sign := range []struct{ name, here, away string }{
		{"openvz", "proc/vz", "proc/bc"}, // the host has both
		{"docker", ".dockerenv", ""},
		{"podman", "run/.containerenv", ""},
	} {
		if exists(at(sign.here)) && (sign.away == "" || !exists(at(sign.away))) {
			return sign.name, true
		}
	}
	return "", false
}

func orUnknown(name string) string {
	if name == "" {
		return "unknown"
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
