package restic

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/command"
)

// installed is what this host's restic can do.
type installed struct {
	version version
	devices featureState // of deviceFeature
}

// deviceFeature is the feature of restic that leaves device numbers out of the backup, except those of hard links.
// Without it every directory of a new set is stored again, because its volumes have new device numbers.
const deviceFeature = "device-id-for-hardlinks"

// featureOfDevices is what deviceFeature means to the user.
const featureOfDevices = "unchanged directories are not stored again on a new device"

// featureState says what becomes of a feature in a version of restic. If RESTIC_FEATURES names a feature that the
// version does not know, every call of restic fails. If it names one that is stable or deprecated, every call warns.
type featureState string

const (
	alpha      featureState = "alpha"      // off, unless RESTIC_FEATURES names it
	beta       featureState = "beta"       // on, unless RESTIC_FEATURES says otherwise
	stable     featureState = "stable"     // on, whatever RESTIC_FEATURES says
	deprecated featureState = "deprecated" // off, whatever RESTIC_FEATURES says
	unknown    featureState = ""
)

// canBeChosen reports whether RESTIC_FEATURES may name the feature.
func (s featureState) canBeChosen() bool { return s == alpha || s == beta }

// features says what this restic can do, for the user.
func (i installed) features() []string {
	list := i.version.features()
	if i.devices.canBeChosen() || i.devices == stable {
		list = append(list, featureOfDevices)
	}
	return list
}

// askInstalled returns what this host's restic can do. It asks restic only once.
func (b *Backend) askInstalled(ctx context.Context) (installed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.installed != (installed{}) {
		return b.installed, nil
	}
	out, err := b.run.Run(ctx, command.Cmd{Argv: []string{"restic", "version"}})
	if err != nil {
		return installed{}, err
	}
	v, err := parseVersion(out.Stdout)
	if err != nil {
		return installed{}, err
	}
	found := installed{version: v}
	if v.atLeast(withFeatures) {
		// A later restic may not have this command any more. Then it works without RESTIC_FEATURES, so that is no error.
		out, err = b.run.Run(ctx, command.Cmd{Argv: []string{"restic", "features"}})
		if ctx.Err() != nil {
			return installed{}, err
		}
		found.devices = parseFeature(out.Stdout, deviceFeature)
	}
	b.installed = found
	return found, nil
}

// parseFeature returns the state of a feature in the output of `restic features`, a table with a line for each: name,
// state, default, description.
func parseFeature(output, name string) featureState {
	for line := range strings.Lines(output) {
		columns := strings.Fields(line)
		if len(columns) < 2 || columns[0] != name {
			continue
		}
		switch state := featureState(columns[1]); state {
		case alpha, beta, stable, deprecated:
			return state
		}
	}
	return unknown
}
