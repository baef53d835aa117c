package peer

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"

	"github.com/holdfast/holdfast/cluster/vfs"
)

const credentialsFile = "credentials"

// Limits of access keys, S3's own where it has them.
const (
	minAccessKey = 3
	maxAccessKey = 128
	minSecret    = 8
	maxSecret    = 128
)

// Secret is the secret half of an access key. It prints as [secret] in every format, so no log can hold it; convert
// it to string to use it.
type Secret string

func (Secret) String() string       { return "[secret]" }
func (Secret) GoString() string     { return "[secret]" }
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }
func (Secret) Format(f fmt.State, _ rune) {
	// fmt.State's writer keeps its own errors; Format has nowhere to return one.
	_, _ = io.WriteString(f, "[secret]")
}

// MarshalText keeps a secret out of JSON as well.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Credentials is an access key with its secret.
type Credentials struct {
	AccessKey string
	Secret    Secret
}

// ErrBadCredentials says that an access key or secret cannot be used; the text says why.
var ErrBadCredentials = errors.New("access key is not valid")

// Validate checks lengths and characters: printable ASCII without spaces, '=', ',' and '/' (which separate the parts
// of a signature's scope) in the access key.
func (c *Credentials) Validate() error {
	if n := len(c.AccessKey); n < minAccessKey || n > maxAccessKey {
		return fmt.Errorf("%w: it has %d characters, not %d to %d", ErrBadCredentials, n, minAccessKey, maxAccessKey)
	}
	if n := len(c.Secret); n < minSecret || n > maxSecret {
		return fmt.Errorf("%w: its secret has %d characters, not %d to %d", ErrBadCredentials, n, minSecret, maxSecret)
	}
	for _, r := range c.AccessKey {
		if r <= ' ' || r > '~' || strings.ContainsRune("=,/", r) {
			return fmt.Errorf("%w: it holds %q", ErrBadCredentials, r)
		}
	}
	for _, r := range string(c.Secret) {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%w: its secret holds a space or a character that is not ASCII", ErrBadCredentials)
		}
	}
	return nil
}

// NewCredentials makes a random access key of 20 characters with a secret of 40 (240 bits).
func NewCredentials() Credentials {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // 32 characters: five bits each without bias
	access := make([]byte, 16)
	fill(access)
	for i := range access {
		access[i] = alphabet[access[i]%32]
	}
	secret := make([]byte, 30)
	fill(secret)
	return Credentials{
		AccessKey: "HFAK" + string(access),
		Secret:    Secret(base64.RawURLEncoding.EncodeToString(secret)),
	}
}

func fill(p []byte) {
	// crypto/rand.Read never fails since Go 1.24: it aborts the process instead.
	if _, err := rand.Read(p); err != nil {
		panic(err)
	}
}

// CredentialsPath is where a peer with data directory dir keeps its root access key.
func CredentialsPath(dir string) string { return path.Join(dir, credentialsFile) }

// ReadCredentials reads the root access key from data directory dir, an absolute path. The error wraps fs.ErrNotExist
// when there is none.
func ReadCredentials(fsys vfs.FS, dir string) (*Credentials, error) {
	text, err := vfs.ReadFile(fsys, CredentialsPath(dir), maxSmall)
	if err != nil {
		return nil, fmt.Errorf("read the credentials: %w", err)
	}
	var c Credentials
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch strings.TrimSpace(name) {
		case "aws_access_key_id":
			c.AccessKey = strings.TrimSpace(value)
		case "aws_secret_access_key":
			c.Secret = Secret(strings.TrimSpace(value))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", CredentialsPath(dir), err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("read %s: %w", CredentialsPath(dir), err)
	}
	return &c, nil
}

// writeCredentials replaces the file in one step. It is in the form of an AWS credentials file, so
// AWS_SHARED_CREDENTIALS_FILE can name it.
func writeCredentials(fsys vfs.FS, dir string, c Credentials) error {
	text := "# The root access key of this holdfast cluster. Also kept in the cluster itself.\n[default]\n" +
		"aws_access_key_id = " + c.AccessKey + "\naws_secret_access_key = " + string(c.Secret) + "\n"
	if err := vfs.WriteFile(fsys, CredentialsPath(dir), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the credentials: %w", err)
	}
	return nil
}

// maxSmall bounds the files of a data directory that are read whole, in bytes.
const maxSmall = 1 << 20
