package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"orch/pkg/identity"
)

// A sealed value is
//
//	magic   no protobuf message begins with a zero byte
//	id      4 bytes, of the key
//	nonce   12 random bytes; so a key is good for 2^32 values (NIST SP 800-38D)
//	the encrypted value and its tag
var magic = []byte("\x00sealed1")

const idSize = 4

// Keys encrypt with the first and decrypt with any of them.
type Keys struct{ all []key }

type key struct {
	id   []byte
	aead cipher.AEAD
}

// LoadKeys reads a key file: a line for each key, 32 random bytes in base64.
// Where there is no file, it makes one with one key (mode 0600).
func LoadKeys(path string) (*Keys, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := Rotate(path); err != nil {
			return nil, err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s: others than its owner may read or write it (mode %v): chmod 0600", path, info.Mode().Perm())
	}
	k := &Keys{}
	for line := range strings.FieldsSeq(string(text)) {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("key file %s: line %d: want 32 bytes in base64, such as `head -c 32 /dev/urandom | base64` prints", path, len(k.all)+1)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		k.all = append(k.all, key{idOf(raw), aead})
	}
	if len(k.all) == 0 {
		return nil, fmt.Errorf("key file %s is empty", path)
	}
	return k, nil
}

// Rotate puts a new key in front of the file's. Who has read the file reads it again
// to use it. No key goes here, because nobody knows what the others are needed for;
// [Keys.Forget] knows.
func Rotate(path string) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("key file: %w", err)
	}
	return write(path, append([]string{base64.StdEncoding.EncodeToString(random(32))}, strings.Fields(string(text))...))
}

// Forget drops from the file what is older than the key before the first one of k,
// which everything is encrypted with by now: see [Store.Reseal]. Keys that came in
// front of it since k was read stay.
func (k *Keys) Forget(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	lines := strings.Fields(string(text))
	for i, line := range lines {
		if raw, err := base64.StdEncoding.DecodeString(line); err == nil && bytes.Equal(idOf(raw), k.all[0].id) && i+2 < len(lines) {
			return write(path, lines[:i+2])
		}
	}
	return nil
}

// write replaces the file by one of these lines, whole or not at all: half a key file
// would be the loss of all secrets, and so would be an older one after a power cut.
func write(path string, lines []string) error {
	if err := identity.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n")); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

func idOf(key []byte) []byte {
	sum := sha256.Sum256(key)
	return sum[:idSize]
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

func (k *Keys) seal(path string, value []byte) []byte {
	first := k.all[0]
	b := append(bytes.Clone(magic), first.id...)
	return first.aead.Seal(b, nil, value, []byte(path))
}

// isCurrent says whether a value was encrypted with the first key.
func (k *Keys) isCurrent(value []byte) bool {
	return bytes.HasPrefix(value, append(bytes.Clone(magic), k.all[0].id...))
}

// open decrypts what seal has made, and returns anything else as it is.
func (k *Keys) open(path string, value []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(value, magic)
	if !ok {
		return value, nil
	}
	for _, key := range k.all {
		sealed, ok := bytes.CutPrefix(rest, key.id)
		if !ok {
			continue
		}
		if b, err := key.aead.Open(nil, nil, sealed, []byte(path)); err == nil {
			return b, nil
		}
	}
	return nil, ErrKey
}
