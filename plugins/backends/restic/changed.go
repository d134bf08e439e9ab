package restic

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/durable"
)

// `restic rewrite` and `restic repair snapshots` put a new snapshot in the place of another. It has the same tags, time
// and paths, but may lack files, or have only a part of them. A restore that took it for the whole would delete what it
// lacks. `restic tag` and `restic copy` also make a new snapshot, of the same files. In all four cases restic records
// the ID of the one before (Original), but not which of the commands it was. What tells them apart is the hash of all
// files, the tree: it is the same, or it is not. So each host keeps the trees of the snapshots that it has listed.

// Why a snapshot that restic has changed is not taken for a complete backup.
const (
	whyOtherFiles = "restic rewrite or restic repair has changed it since, so files may be missing or cut off; " +
		"restore_id=ID takes it all the same"
	whyNotKnown = "restic has changed or copied it since, and whether files are missing is not known on this server; " +
		"look into it; restore_id=ID takes it all the same"
)

// restic gives one of these tags to a changed snapshot if it leaves the original in the repository.
var tagsOfChange = []string{"rewrite", "repaired"}

// whyDamaged says why nobody knows that the snapshot still has all files that were stored: in the words of
// backup.Stored.Damaged, and "" if it has them. trees are the trees of snapshots that nobody had changed, by ID.
func (s snapshot) whyDamaged(trees map[string]string) string {
	isOfChange := func(tag string) bool { return slices.Contains(tagsOfChange, tag) }
	if s.Original == "" {
		return ""
	}
	if slices.ContainsFunc(s.Tags, isOfChange) {
		return whyOtherFiles
	}
	switch tree := trees[s.Original]; tree {
	case "":
		return whyNotKnown
	case s.Tree:
		return ""
	}
	return whyOtherFiles
}

// unchanged returns the trees of those snapshots that nobody has changed, by ID.
func unchanged(all []snapshot) map[string]string {
	trees := map[string]string{}
	for _, s := range all {
		if s.Original == "" && s.Tree != "" {
			trees[s.ID] = s.Tree
		}
	}
	return trees
}

// treesName begins the name of the file with the trees of a host's snapshots. The rest is a hash of the host's name.
const treesName = "trees-"

// keepTrees keeps the trees of the snapshots, which are all of their hosts, and forgets those of snapshots that are
// gone. If that fails, the backups that somebody changes by restic later are not taken for complete ones, which is on
// the safe side.
func (dir notes) keepTrees(all []snapshot) {
	byHost := map[string][]snapshot{}
	for _, s := range all {
		byHost[s.Host] = append(byHost[s.Host], s)
	}
	for host, snapshots := range byHost {
		dir.keepTreesOf(host, snapshots)
	}
}

func (dir notes) keepTreesOf(host string, all []snapshot) {
	path := filepath.Join(string(dir), treesName+hash(host))
	kept, trees := readTrees(path), unchanged(all)
	for _, s := range all {
		if tree, ok := kept[s.Original]; ok {
			trees[s.Original] = tree
		}
	}
	if maps.Equal(kept, trees) || durable.MkdirAll(string(dir), 0o700) != nil {
		return
	}
	if data, err := json.Marshal(trees); err == nil {
		_ = durable.WriteFile(path, data, 0o600)
	}
}

// keptTrees returns the trees that this host has kept, of all repositories, since `restic copy` makes snapshots in
// another one.
func keptTrees() map[string]string {
	trees := map[string]string{}
	paths, _ := filepath.Glob(filepath.Join(notesDir, "*", treesName+"*"))
	for _, path := range paths {
		maps.Copy(trees, readTrees(path))
	}
	return trees
}

// readTrees reads a file of trees. One that cannot be read has none.
func readTrees(path string) map[string]string {
	var trees map[string]string
	if data, err := os.ReadFile(path); err != nil || json.Unmarshal(data, &trees) != nil {
		return nil
	}
	return trees
}
