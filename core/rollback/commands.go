package rollback

import (
	"context"
	"maps"

	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// HiddenCommands returns the hidden commands of a module that makes runs, by name: those that the runs' units call, and
// those that the units of the boot guard call. own are the kinds of runs that only this module makes; every module can
// also settle those of snapset and of rollback.
func HiddenCommands(own journey.Handlers) map[string]func(context.Context, []string) int {
	s := thisServer()
	handlers := journey.Handlers{snapset.Kind: s.Sets.Handler(), Kind: s.Handler()}
	maps.Copy(handlers, own)
	commands := handlers.Internal()
	settleAll := commands["settle"]
	commands["guard"] = func(ctx context.Context, _ []string) int { return exitCode(s.atBoot(ctx, s.GuardBoot)) }
	commands["resume"] = func(ctx context.Context, args []string) int {
		code := settleAll(ctx, args)
		return max(code, exitCode(s.atBoot(ctx, s.FinishAfterBoot)))
	}
	return commands
}

// exitCode returns the exit code for err, and writes err to the log.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	return journey.LogError(err)
}
