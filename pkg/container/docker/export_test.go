package docker

// PauseProgram is the sandbox's executable.
var PauseProgram = pauseProgram

// UseSandboxImage makes CreateSandbox look for its image under another tag, so
// that a test can see it being made.
func (r *Runtime) UseSandboxImage(ref, arch string) error {
	program, err := pauseProgram(arch)
	if err != nil {
		return err
	}
	r.sandbox.Store(newSandboxImage(ref, program))
	return nil
}

var Unframe = unframe
