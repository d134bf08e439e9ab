package service

import (
	"testing"

	"go.pcc.com/rewind/core/service/servicetest"
)

func TestListensAtAndCanStop(t *testing.T) {
	f := servicetest.New()
	f.Add("dbus.socket", "active").Properties = map[string]any{"Listen": []any{
		[]any{"Stream", "/run/dbus/system_bus_socket"},
	}}
	f.Add("app.socket", "active").Properties = map[string]any{"Listen": []any{
		[]any{"Datagram", "/run/app"}, []any{"Stream", "/dat/app.sock"},
	}}
	f.Add("app.service", "active")
	f.Add("nfs-server.service", "inactive")
	s := systemdOn(t, f)
	for path, want := range map[string]string{"/dat/app.sock": "app.socket", "/dat/other": ""} {
		if got, err := s.ListensAt(t.Context(), path); got != want || err != nil {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
	for name, want := range map[string]bool{
		"app.socket": true, "app.service": true, "dbus.socket": false,
		"nfs-server.service": false, "none.service": false, "init.scope": false,
	} {
		if got, err := s.CanStop(t.Context(), name); got != want || err != nil {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}
