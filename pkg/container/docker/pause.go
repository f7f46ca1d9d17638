package docker

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The sandbox's only process has nothing to do but to exist, because a network
// namespace lives as long as a process is in it, to let processes end that
// nobody waits for, and to leave when asked. With an argument it first moves into
// a network namespace of its own, which is empty, and then becomes nobody in
// particular, who may do nothing.
//
// Written in C it would be
//
//	if (argc != 1 && (unshare(CLONE_NEWNET) || setresgid(nobody, nobody, nobody) ||
//	    setresuid(nobody, nobody, nobody))) _exit(1);
//	sigaction(SIGCHLD, &ignore, NULL);
//	sigset_t set = { SIGINT, SIGTERM };
//	sigprocmask(SIG_BLOCK, &set, NULL);
//	while (sigtimedwait(&set, NULL, NULL) < 0) ;
//	_exit(0);
//
// The kernel drops signals that process 1 of a PID namespace neither handles
// nor blocks, so that a plain pause() would ignore SIGTERM and every sandbox
// would be killed only after its grace period. A blocked signal is kept, and
// sigtimedwait takes it from the queue: no handler, no stack, no libc. Children of
// a process that ignores SIGCHLD, adopted ones too, leave no zombies.

// cloneNewNet is the kernel's CLONE_NEWNET.
const cloneNewNet = 0x40000000

// nobody is whom the process ends up as: the number that Kubernetes' own pause
// image has.
const nobody = 65535

// Where in pauseData things are.
const (
	signalSet = 0 // sigset_t
	ignore    = 8 // struct sigaction
)

// pauseData follows the code.
func pauseData() []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, 1<<(2-1)|1<<(15-1)) // bit n-1 stands for signal n: SIGINT, SIGTERM
	b = le.AppendUint64(b, 1)                     // SIG_IGN
	return append(b, make([]byte, 24)...)
}

// loadAddress is where the program's only segment lies in memory.
const loadAddress = 0x400000

const (
	elfHeaderSize     = 64
	programHeaderSize = 56
	codeOffset        = elfHeaderSize + programHeaderSize
)

// ELF machine numbers (e_machine).
const (
	machineAMD64 = 62
	machineARM64 = 183
)

// pauseProgram returns the executable for a GOARCH.
func pauseProgram(arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return executable(machineAMD64, pauseAMD64()), nil
	case "arm64":
		return executable(machineARM64, pauseARM64()), nil
	default:
		return nil, fmt.Errorf("no sandbox program for architecture %q (there is one for amd64 and arm64)", arch)
	}
}

// pauseAMD64 is the machine code for x86-64. System calls take their number in
// eax and arguments in rdi, rsi, rdx, r10. The stack begins with argc.
func pauseAMD64() []byte {
	const size = 136 // of the code; the data follow
	const data = loadAddress + codeOffset + size
	b := &bytes.Buffer{}
	emit := func(code ...byte) { b.Write(code) }
	emit32 := func(opcode byte, immediate uint32) {
		b.WriteByte(opcode)
		_ = binary.Write(b, binary.LittleEndian, immediate) // a Buffer does not fail
	}
	syscall := func(number uint32) {
		emit32(0xb8, number) // mov  eax, number
		emit(0x0f, 0x05)     // syscall
	}
	jump := func(opcode byte, to int) { emit(opcode, byte(int8(to-(b.Len()+2)))) }
	const ready, fail = 54, 124 // the labels, in bytes from the start

	emit(0x48, 0x83, 0x3c, 0x24, 1)                   // cmp  qword [rsp], 1 (argc)
	jump(0x74, ready)                                 // je   ready
	emit32(0xbf, cloneNewNet)                         // mov  edi, CLONE_NEWNET
	syscall(272)                                      // unshare
	emit(0x85, 0xc0)                                  // test eax, eax
	jump(0x75, fail)                                  // jnz  fail
	emit32(0xbf, nobody)                              // mov  edi, nobody
	emit(0x89, 0xfe)                                  // mov  esi, edi
	emit(0x89, 0xfa)                                  // mov  edx, edi
	syscall(119)                                      // setresgid
	emit(0x85, 0xc0)                                  // test eax, eax
	jump(0x75, fail)                                  // jnz  fail
	syscall(117)                                      // setresuid
	emit(0x85, 0xc0)                                  // test eax, eax
	jump(0x75, fail)                                  // jnz  fail
	emit32(0xbf, 17)                                  // ready: mov edi, SIGCHLD
	emit32(0xbe, data+ignore)                         // mov  esi, SIG_IGN
	emit(0x31, 0xd2)                                  // xor  edx, edx (no old action)
	emit(0x41, 0xba, 8, 0, 0, 0)                      // mov  r10d, 8 (size of its set)
	syscall(13)                                       // rt_sigaction
	emit(0x31, 0xff)                                  // xor  edi, edi (SIG_BLOCK)
	emit32(0xbe, data+signalSet)                      // mov  esi, set
	emit(0x31, 0xd2)                                  // xor  edx, edx (no old set)
	syscall(14)                                       // rt_sigprocmask
	wait := b.Len()                                   //
	emit32(0xbf, data+signalSet)                      // mov  edi, set
	emit(0x31, 0xf6)                                  // xor  esi, esi (no siginfo)
	emit(0x31, 0xd2)                                  // xor  edx, edx (no time limit)
	syscall(128)                                      // rt_sigtimedwait
	emit(0x85, 0xc0)                                  // test eax, eax
	jump(0x78, wait)                                  // js   wait (interrupted)
	emit(0x31, 0xff)                                  // xor  edi, edi
	syscall(231)                                      // exit_group
	emit32(0xbf, 1)                                   // fail: mov edi, 1
	syscall(231)                                      // exit_group
	b.Write(bytes.Repeat([]byte{0xcc}, size-b.Len())) // int3, never reached
	return append(b.Bytes(), pauseData()...)
}

// pauseARM64 is the machine code for AArch64. System calls take their number
// in x8 and arguments in x0 to x3. Every instruction has 4 bytes.
func pauseARM64() []byte {
	const ready, fail, data = 17, 36, 40 // the labels, in instructions from the start
	var b []byte
	here := func() int { return len(b) / 4 }
	emit := func(instruction uint32) { b = binary.LittleEndian.AppendUint32(b, instruction) }
	movz := func(register, value uint32) { emit(0xd2800000 | value<<5 | register) }
	adr := func(register uint32, offset int) { // relative to this instruction; a multiple of 4
		emit(0x10000000 | uint32(data-here()+offset/4)<<5 | register)
	}
	branch := func(instruction uint32, to int) { emit(instruction | (uint32(to-here())&0x7ffff)<<5) }
	syscall := func(number uint32) {
		movz(8, number)
		emit(0xd4000001) // svc #0
	}

	emit(0xf94003e0)          // ldr  x0, [sp] (argc)
	emit(0xf100041f)          // cmp  x0, #1
	branch(0x54000000, ready) // b.eq ready
	emit(0xd2a80000)          // movz x0, #0x4000, lsl #16 (CLONE_NEWNET)
	syscall(97)               // unshare
	branch(0xb5000000, fail)  // cbnz x0, fail
	movz(0, nobody)
	movz(1, nobody)
	movz(2, nobody)
	syscall(149)             // setresgid
	branch(0xb5000000, fail) // cbnz x0, fail
	movz(0, nobody)
	syscall(147)                                       // setresuid
	branch(0xb5000000, fail)                           // cbnz x0, fail
	movz(0, 17)                                        // ready: SIGCHLD
	adr(1, ignore)                                     //
	movz(2, 0)                                         // no old action
	movz(3, 8)                                         // size of its set
	syscall(134)                                       // rt_sigaction
	movz(0, 0)                                         // SIG_BLOCK
	adr(1, signalSet)                                  //
	syscall(135)                                       // rt_sigprocmask
	wait := here()                                     //
	adr(0, signalSet)                                  //
	movz(1, 0)                                         // no siginfo
	movz(2, 0)                                         // no time limit
	syscall(137)                                       // rt_sigtimedwait
	emit(0xb7f80000 | (uint32(wait-here())&0x3fff)<<5) // tbnz x0, #63, wait (negative: interrupted)
	movz(0, 0)
	syscall(94)      // exit_group
	movz(0, 1)       // fail:
	syscall(94)      // exit_group
	emit(0xd4200000) // brk, never reached
	return append(b, pauseData()...)
}

// executable wraps code into the least that Linux accepts as a 64-bit ELF
// file: the file header and one program header, which loads the whole file.
func executable(machine uint16, code []byte) []byte {
	size := uint64(codeOffset + len(code))
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2 /* 64 bits */, 1 /* little endian */, 1 /* version */, 0 /* System V */}
	b = append(b, make([]byte, 8)...)              // padding
	b = le.AppendUint16(b, 2)                      // e_type: executable
	b = le.AppendUint16(b, machine)                // e_machine
	b = le.AppendUint32(b, 1)                      // e_version
	b = le.AppendUint64(b, loadAddress+codeOffset) // e_entry
	b = le.AppendUint64(b, elfHeaderSize)          // e_phoff
	b = le.AppendUint64(b, 0)                      // e_shoff: no sections
	b = le.AppendUint32(b, 0)                      // e_flags
	b = le.AppendUint16(b, elfHeaderSize)          // e_ehsize
	b = le.AppendUint16(b, programHeaderSize)      // e_phentsize
	b = le.AppendUint16(b, 1)                      // e_phnum
	b = le.AppendUint16(b, 0)                      // e_shentsize
	b = le.AppendUint16(b, 0)                      // e_shnum
	b = le.AppendUint16(b, 0)                      // e_shstrndx

	b = le.AppendUint32(b, 1)           // p_type: load
	b = le.AppendUint32(b, 4|1)         // p_flags: read, execute
	b = le.AppendUint64(b, 0)           // p_offset
	b = le.AppendUint64(b, loadAddress) // p_vaddr
	b = le.AppendUint64(b, loadAddress) // p_paddr
	b = le.AppendUint64(b, size)        // p_filesz
	b = le.AppendUint64(b, size)        // p_memsz
	b = le.AppendUint64(b, 0x10000)     // p_align: arm64 has pages of up to 64 KiB
	return append(b, code...)
}
