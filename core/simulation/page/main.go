// Command page writes docs/simulation.md: what the simulation has played, and which lines it never reached.
//
//	page COUNTS PROFILE PAGE
//
// COUNTS is what the simulation wrote with -counts, PROFILE its coverage profile. The stories that PAGE says were
// played before are added up.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const head = `# Simulation

Written by 'make simulation-page': what 'core/simulation' has played on servers that it draws, and
what no story has reached. [design.md](design.md#9-how-it-is-tested) says how it works.

- **Play more:** 'make simulation SEEDS=200000 FROM=100001'. A seed plays the same story each time.
- **Play one story:**
  'go test ./core/simulation -run TestRollbacks -seeds 3 -from SEED -show -v', or 'TestSets'.
  A story that fails is printed in its smallest form, with its seed.
- **Add an effect:** whatever the product asks of a server goes through 'process.do' (a command, a
  call, a change of a file). Give it a name there.
- **Add a fault:** a 'Kind' in faults.go, drawn by 'kindsFor' and played by 'process.do'.
- **Add a rule:** a call of 'violate' in invariants.go or rollback_rules.go, and a mutation in
  mutation_test.go that only this rule finds.

`

// reasons say why no story reaches a file, or a part of it.
var reasons = map[string]string{
	"journey/call.go":             "the caller's side: it starts a unit of systemd",
	"journey/detach.go":           "the caller's side",
	"journey/current.go":          "reads /proc and systemd",
	"journey/inside.go":           "the unit's main program",
	"journey/install.go":          "copies the program",
	"journey/leftovers.go":        "no program outlives its run here",
	"journey/watch.go":            "the caller's side",
	"rollback/volumes_crypt.go":   "no LUKS yet",
	"rollback/plan_keys.go":       "no LUKS yet",
	"rollback/answers_preview.go": "compares files",
	"rollback/end.go":             "ends processes, which are not simulated",
	"rollback/volumes_quota.go":   "no quotas",
	"rollback/plan_kernels.go":    "no root file system",
	"snapset/mount.go":            "state=mounted is not simulated",
	"snapset/unmount.go":          "state=unmounted is not simulated",
	"snapset/info.go":             "changes nothing",
	"snapset/host.go":             "changes nothing",
	"restore":                     "not simulated yet",
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: page COUNTS PROFILE PAGE")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// counts is what the simulation wrote with -counts.
type counts struct {
	Stories, Kinds, Seeds map[string]int
}

func write(countsFile, profile, page string) error {
	data, err := os.ReadFile(countsFile)
	if err != nil {
		return err
	}
	var c counts
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", countsFile, err)
	}
	old, err := os.ReadFile(page)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	missed, err := readProfile(profile)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(head, "'", "`") + storiesTable(c, string(old)) + kindsTable(c) + missedTable(missed)
	return os.WriteFile(page, []byte(text), 0o644)
}

// total matches the line of a test in the table of stories.
var total = regexp.MustCompile(`(?m)^\| (Test\w+) \| \d+ \| (\d+) \|`)

// storiesTable says how many stories were played, also with what an older page says.
func storiesTable(c counts, old string) string {
	sum := maps.Clone(c.Stories)
	for _, row := range total.FindAllStringSubmatch(old, -1) {
		n, _ := strconv.Atoi(row[2])
		sum[row[1]] += n
	}
	var b strings.Builder
	b.WriteString("## Stories\n\n| test | this time | in all | last seed |\n|---|---|---|---|\n")
	for _, test := range slices.Sorted(maps.Keys(sum)) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", test, c.Stories[test], sum[test], c.Seeds[test])
	}
	return b.String() + "\n"
}

func kindsTable(c counts) string {
	kinds := slices.SortedFunc(maps.Keys(c.Kinds), func(a, b string) int {
		return cmp.Or(c.Kinds[b]-c.Kinds[a], strings.Compare(a, b))
	})
	var b strings.Builder
	b.WriteString("## What went wrong this time\n\n| a command or a call, or the process at it | times |\n|---|---|\n")
	for _, kind := range kinds {
		fmt.Fprintf(&b, "| %s | %d |\n", kind, c.Kinds[kind])
	}
	return b.String() + "\n"
}

// lines are line numbers of a file that were never reached, and how many lines with code it has.
type lines struct {
	missed map[int]bool
	all    map[int]bool
}

// block matches a line of a coverage profile: file, first and last line, and how often the block was reached.
var block = regexp.MustCompile(`^.*/core/(\S+\.go):(\d+)\.\d+,(\d+)\.\d+ \d+ (\d+)$`)

// readProfile returns the lines by file, from a coverage profile.
func readProfile(path string) (map[string]*lines, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string]*lines{}
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		m := block.FindStringSubmatch(scanner.Text())
		if m == nil {
			continue
		}
		if files[m[1]] == nil {
			files[m[1]] = &lines{map[int]bool{}, map[int]bool{}}
		}
		first, _ := strconv.Atoi(m[2])
		last, _ := strconv.Atoi(m[3])
		for n := first; n <= last; n++ {
			files[m[1]].all[n] = true
			files[m[1]].missed[n] = files[m[1]].missed[n] || m[4] == "0"
		}
	}
	return files, scanner.Err()
}

func missedTable(files map[string]*lines) string {
	var b strings.Builder
	b.WriteString("## Lines that no story has reached this time\n\n| file | reached | never reached |\n|---|---|---|\n")
	for _, file := range slices.Sorted(maps.Keys(files)) {
		l := files[file]
		maps.DeleteFunc(l.missed, func(_ int, missed bool) bool { return !missed })
		if len(l.missed) == 0 {
			continue
		}
		what := ranges(slices.Sorted(maps.Keys(l.missed)))
		dir, _, _ := strings.Cut(file, "/")
		if reason := cmp.Or(reasons[file], reasons[dir]); reason != "" {
			what = reason
		}
		fmt.Fprintf(&b, "| %s | %d %% | %s |\n", file, 100*(len(l.all)-len(l.missed))/len(l.all), what)
	}
	return b.String()
}

// ranges writes sorted numbers as ranges, such as 3-5, 9.
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		text := strconv.Itoa(numbers[i])
		if j > i {
			text += "-" + strconv.Itoa(numbers[j])
		}
		parts, i = append(parts, text), j+1
	}
	return strings.Join(parts, ", ")
}
