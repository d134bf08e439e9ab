package filesystem

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// InContainer reports whether this system is a container, and which kind of container. A container cannot manage the
// volumes of its host. The signs are those of systemd's CONTAINER_INTERFACE and of Virtuozzo.
func InContainer() (name string, inside bool) { return inContainer("/") }

// OnHost returns the fault unsupported if this system is a container.
func OnHost() error {
	name, inside := InContainer()
	if !inside {
		return nil
	}
	return fault.New(fault.Unsupported, "this is a container (%s): its volumes belong to its host", name).
		With("container", name).WithHint("run it on the host")
}

func inContainer(root string) (string, bool) {
	inRoot := func(path string) string { return filepath.Join(root, path) }
	if data, err := os.ReadFile(inRoot("run/systemd/container")); err == nil {
		return orUnknown(strings.TrimSpace(string(data))), true
	}
	environ, _ := os.ReadFile(inRoot("proc/1/environ"))
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte("container=")); ok {
			return orUnknown(string(value)), true
		}
	}
	for _, sign := range []struct{ name, present, absent string }{
		{"openvz", "proc/vz", "proc/bc"}, // the host has both directories
		{"docker", ".dockerenv", ""},
		{"podman", "run/.containerenv", ""},
	} {
		if exists(inRoot(sign.present)) && (sign.absent == "" || !exists(inRoot(sign.absent))) {
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
