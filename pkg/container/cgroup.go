package container

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// cgroups is where Linux shows control groups.
const cgroups = "/sys/fs/cgroup"

// Cgroups returns the folders of a container's control groups on this machine, by
// controller; under "" is that of version 2, where the machine has it. pid is of a
// process of the container. It fails where that is not on this machine, or is another
// one's by now.
func Cgroups(id string, pid int) (map[string]string, error) {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(list)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || !strings.Contains(parts[2], id) {
			continue // also where the number now is another process's
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			dirs[controller] = path.Join(cgroups, controller, parts[2])
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("process %d is not of container %s", pid, id)
	}
	return dirs, nil
}
