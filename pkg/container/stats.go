package container

import "time"

// Stats is what a running container uses.
type Stats struct {
	// At is when it was looked; two looks make a rate of CPU.
	At  time.Time
	CPU time.Duration // time of processors, since the container was made
	// MemoryBytes leaves out what the kernel can take back at once: files that
	// nobody has read for a while (Kubernetes' working set).
	MemoryBytes int64
	PIDs        int64
}

// Machine is how a machine is, apart from its containers.
type Machine struct {
	At  time.Time
	CPU time.Duration // time of processors that were not idle, since the start

	Memory Room
	// Disk is the file system of the engine's data: images, what containers
	// write beside them, and their logs.
	Disk Room
	PIDs Room
}

// Room is how much there is of something, in all and for new users. A Capacity
// of 0 says that it is not known.
type Room struct{ Capacity, Available int64 }
