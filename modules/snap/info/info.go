// Package info is the module snap_backup_info, which lists a server's backups. It is called by Ansible or by hand.
package info

import (
	"context"
	"fmt"
	"io"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/plugins/backends"
)

type args struct {
	access.Arguments `mapstructure:",squash"`
	AllHosts         bool `mapstructure:"all_hosts" doc:"Also the backups of other servers in the same repository."`
}

// Module returns the program snap_backup_info.
func Module() ansible.Program { return module().Program() }

func module() ansible.Module[args] {
	internal := rollback.HiddenCommands(journey.Handlers{run.KindQuery: run.QueryHandler(backends.BuiltIn)})
	internal["backend"] = func(_ context.Context, args []string) int { return backends.BuiltIn.Serve(args) }
	return ansible.Module[args]{
		Name:     "snap_backup_info",
		Summary:  "Lists the backups of a server. It changes none of them.",
		Defaults: func() args { return args{Arguments: access.Defaults()} },
		Validate: func(a args) error { return a.Arguments.Validate() },
		Run:      listBackups,
		Print:    printResult,
		Examples: `  snap_backup_info backend_options=path=/srv/backup  list this server's backups
  snap_backup_info backend=restic backend_options=repository=/srv/restic,password_file=/root/restic.pw ` +
			`all_hosts=true  list the backups of all servers`,
		Internal: internal,
	}
}

func listBackups(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	use, err := a.Arguments.Use()
	if err != nil {
		return ansible.Result{}, err
	}
	secret, err := a.Arguments.Secrets(c)
	if err != nil {
		return ansible.Result{}, err
	}
	return journey.Make(ctx, journey.Call{
		Kind: run.KindQuery, Title: "list the backups of " + use.Backend, Limit: access.Limit(use), Secret: secret,
		Request: run.Request{Query: run.List, Use: use, AllHosts: a.AllHosts},
	})
}

func printResult(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var data struct {
		Backups []run.Entry `json:"backups"`
	}
	if r.Into(&data) != nil {
		return
	}
	for _, b := range data.Backups {
		fmt.Fprintf(w, "  %-24s %s  %s  %s", b.ID, ansible.LocalTime(b.Time), b.Host, strings.Join(b.Volumes, ", "))
		if b.Set != "" {
			fmt.Fprintf(w, " (%s)", b.Set)
		}
		if b.Bytes > 0 {
			fmt.Fprintf(w, "  %d files, %s", b.Files, ansible.Bytes(b.Bytes))
		}
		if !b.Complete {
			fmt.Fprint(w, "  incomplete")
		}
		if b.Future {
			fmt.Fprint(w, "  dated in the future")
		}
		fmt.Fprintln(w)
	}
}
