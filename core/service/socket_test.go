package service

import "testing"

func TestListensAtAndCanStop(t *testing.T) {
	f := newFakeBus()
	f.add("dbus.socket", "active").typeProperties = map[string]any{"Listen": []any{
		[]any{"Stream", "/run/dbus/system_bus_socket"},
	}}
	f.add("app.socket", "active").typeProperties = map[string]any{"Listen": []any{
		[]any{"Datagram", "/run/app"}, []any{"Stream", "/dat/app.sock"},
	}}
	f.add("app.service", "active")
	f.add("nfs-server.service", "inactive")
	s := f.systemd(t)
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
