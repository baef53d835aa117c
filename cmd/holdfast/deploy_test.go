package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// lines are those of a file that say something.
func lines(text string) []string {
	var said []string
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
			said = append(said, line)
		}
	}
	return said
}

// unit reads a unit file: section → key → its last value.
func unit(t *testing.T, text string) map[string]map[string]string {
	t.Helper()
	sections, section := map[string]map[string]string{}, ""
	for _, line := range lines(text) {
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			sections[section] = map[string]string{}
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found || section == "" {
			t.Fatalf("%q is no setting of a section", line)
		}
		sections[section][key] = value
	}
	return sections
}

// The unit starts a command that exists, with a configuration that it accepts, as a user that sysusers makes.
func TestTheSystemdUnitStartsWhatThereIs(t *testing.T) {
	service := unit(t, deployed(t, "holdfast.service"))["Service"]
	args := strings.Fields(service["ExecStart"])
	root := newRoot(&session{self: "holdfast"})
	command, rest, err := root.Find(args[1:])
	if err != nil || command.Name() != "server" {
		t.Fatalf("ExecStart=%s: %v", service["ExecStart"], err)
	}
	for _, arg := range rest {
		if name, isFlag := strings.CutPrefix(arg, "--"); isFlag && command.Flags().Lookup(name) == nil && root.PersistentFlags().Lookup(name) == nil {
			t.Errorf("server has no flag %s", arg)
		}
	}
	// A peer stops within its graces: 10 s for requests twice, 25 s for names and bytes, 3 s for drives.
	if limit, err := time.ParseDuration(service["TimeoutStopSec"]); err != nil || limit < 75*time.Second {
		t.Errorf("TimeoutStopSec=%s is less than a stop may take: %v", service["TimeoutStopSec"], err)
	}
	if files, err := strconv.Atoi(service["LimitNOFILE"]); err != nil || files < 1<<16 {
		t.Errorf("LimitNOFILE=%s: %v", service["LimitNOFILE"], err)
	}
	user := strings.Fields(lines(deployed(t, "holdfast.sysusers"))[0])
	if len(user) < 2 || user[0] != "u" || user[1] != service["User"] {
		t.Errorf("sysusers makes %q, the unit runs as %q", user, service["User"])
	}
	for _, line := range lines(deployed(t, "holdfast.tmpfiles")) {
		if fields := strings.Fields(line); len(fields) < 5 || fields[4] != service["Group"] {
			t.Errorf("tmpfiles: %q", line)
		}
	}
}

// systemd itself finds nothing wrong, where it is installed.
func TestSystemdAcceptsTheUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("this machine has no systemd-analyze")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The binary need not be installed for its unit to be checked.
	text := strings.ReplaceAll(deployed(t, "holdfast.service"), "/usr/local/bin/holdfast", self)
	at := filepath.Join(t.TempDir(), "holdfast.service")
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", at).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// Every setting of the example is one that the server knows.
func TestTheExampleConfigurationIsAccepted(t *testing.T) {
	text := deployed(t, "holdfast.yaml")
	// The settings that stand there as comments count too.
	text = regexp.MustCompile(`(?m)^  # ([a-z0-9-]+: \S+)$`).ReplaceAllString(text, "  $1")
	at := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root := newRoot(&session{self: "holdfast"})
	command, _, err := root.Find([]string{"server"})
	if err != nil {
		t.Fatal(err)
	}
	config := configuration{lookup: func(string) (string, bool) { return "", false }, file: at}
	if err := config.resolve(command); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"dir": "/var/lib/holdfast", "drives": "[/mnt/d{1...12}]", "s3": "10.0.0.1:9000", "peer": "10.0.0.1:9001", "join": "@/etc/holdfast/token", "tls-key": "/etc/holdfast/key.pem"} {
		if got := command.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// The image is built with the release of Go that the module asks for, and does not run as root.
func TestTheContainerfileFitsTheTree(t *testing.T) {
	text := deployed(t, "Containerfile")
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	release := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	if release == nil || !strings.Contains(text, "golang:"+string(release[1])+" ") {
		t.Errorf("go.mod asks for Go %s", release)
	}
	known := strings.Fields("FROM WORKDIR COPY RUN ARG USER ENV VOLUME EXPOSE STOPSIGNAL ENTRYPOINT CMD &&")
	user := ""
	for _, line := range lines(text) {
		word, rest, _ := strings.Cut(line, " ")
		if !slices.Contains(known, word) {
			t.Errorf("%q begins with no instruction", line)
		}
		if word == "USER" {
			user = rest
		}
	}
	if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		t.Errorf("the image runs as %q", user)
	}
	for _, flag := range regexp.MustCompile(`HOLDFAST_([A-Z0-9_]+)=`).FindAllStringSubmatch(text, -1) {
		if name := strings.ToLower(strings.ReplaceAll(flag[1], "_", "-")); !slices.Contains(settingsOf(newRoot(&session{self: "holdfast"})), name) {
			t.Errorf("HOLDFAST_%s is no setting", flag[1])
		}
	}
}
