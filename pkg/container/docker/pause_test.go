package docker_test

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"testing"

	"orch/pkg/container/docker"
)

func TestPauseProgramIsAnExecutableThatWasRun(t *testing.T) {
	for _, test := range []struct {
		arch    string
		machine elf.Machine
		// Of the bytes that were seen to start, to move into a network of their
		// own where asked to, to sleep without using the processor, and to end
		// with code 0 on SIGTERM, or 1 where they may not move: amd64 as process 1
		// of a container, arm64 under an emulator. Other bytes have to be tried
		// again.
		sum string
	}{
		{"amd64", elf.EM_X86_64, "ddab6eafb5ab"},
		{"arm64", elf.EM_AARCH64, "03ab60a99b54"},
	} {
		program, err := docker.PauseProgram(test.arch)
		if err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatal(err)
		}
		load := file.Progs[0]
		if file.Type != elf.ET_EXEC || file.Machine != test.machine || len(file.Progs) != 1 ||
			load.Type != elf.PT_LOAD || load.Flags != elf.PF_R|elf.PF_X || load.Filesz != uint64(len(program)) ||
			file.Entry <= load.Vaddr || file.Entry >= load.Vaddr+load.Memsz {
			t.Errorf("%s: header %+v, segment %+v", test.arch, file.FileHeader, load)
		}
		if len(program) > 320 {
			t.Errorf("%s: %d bytes", test.arch, len(program))
		}
		sum := sha256.Sum256(program)
		if got := hex.EncodeToString(sum[:6]); got != test.sum {
			t.Errorf("%s: program is %s, the one that was tried %s", test.arch, got, test.sum)
		}
	}
	if _, err := docker.PauseProgram("riscv64"); err == nil {
		t.Error("there is a program for riscv64, which nobody wrote")
	}
}
