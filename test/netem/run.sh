#!/bin/sh
# Runs the tests of what happens in pods' networks under Debian's kernel, in a virtual
# machine: not every kernel can delay packets (netem). Its root is this machine's,
# under a layer in memory that takes all writes, so Go, Docker, tc and iptables are
# those of this machine too. Nothing of this machine is changed.
#
# For root on Debian or Ubuntu, with qemu-system-x86 and the lists of `apt-get update`.
# Without KVM it takes some ten minutes, most of them emulated. ACCEL=kvm uses it.
set -eu
command -v qemu-system-x86_64 >/dev/null || { echo "FAIL  netem  install qemu-system-x86"; exit 1; }
repo=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p')
apt-get download -q "$kernel" busybox-static
for package in *.deb; do dpkg-deb -x "$package" .; done
release=${kernel#linux-image-} modules=lib/modules/${kernel#linux-image-}
busybox=$(find bin usr/bin -name busybox 2>/dev/null | head -1)
"$busybox" depmod -b . "$release"

# The first root has what it takes to reach the real one.
mkdir -p first/dev first/proc first/sys first/low first/up first/new
cp "$busybox" first/busybox
for module in modules.dep $(grep -E '/(virtio_pci|9pnet_virtio|9p|overlay)\.ko:' "$modules/modules.dep" | tr -d :); do
	mkdir -p "first/$modules/$(dirname "$module")"
	cp "$modules/$module" "first/$modules/$module"
done
cat >first/init <<'END'
#!/busybox sh
/busybox mkdir -p /bin && /busybox --install -s /bin
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
for module in virtio_pci 9pnet_virtio 9p overlay; do modprobe $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose root /low
mount -t tmpfs -o size=70% up /up && mkdir /up/u /up/w
mount -t overlay -o lowerdir=/low,upperdir=/up/u,workdir=/up/w over /new
cd /new
mount -t proc proc proc && mount -t sysfs sys sys && mount -t cgroup2 groups sys/fs/cgroup
mount -t devtmpfs dev dev && mkdir -p dev/pts dev/shm && mount -t devpts pts dev/pts && mount -t tmpfs shm dev/shm
mount -t tmpfs run run && mkdir -p var/lib/docker && mount -t tmpfs -o size=50% docker var/lib/docker
cp /busybox /second run && ln -sf /run/busybox sbin/modprobe
exec switch_root /new /bin/sh /run/second
END
cat >first/second <<END
export HOME=/root PATH=$PATH
mkdir -p /lib/modules && mount --bind $work/lib/modules /lib/modules
/run/busybox ip link set lo up
echo '{}' >/run/docker.json
dockerd --config-file /run/docker.json >/run/docker.log 2>&1 &
tries=0
until docker info >/dev/null 2>&1 || [ \$tries = 60 ]; do tries=\$((tries + 1)); sleep 1; done
uname -a
cd $repo/pkg/agent/fault && $work/fault.test -test.v -test.run Later && cd .. &&
	$work/agent.test -test.v -test.timeout 40m -test.run 'TestDockerFaults/.*network' && echo PACKETS ARE DELAYED AS ASKED FOR
/run/busybox poweroff -f
END
chmod +x first/init
(cd first && find . | "../$busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >first.gz

(cd "$repo" && CGO_ENABLED=0 go test -c -o "$work/" ./pkg/agent ./pkg/agent/fault)
qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu max -smp 2 -m 6G -nographic -no-reboot -nic none \
	-virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
	-kernel "boot/vmlinuz-$release" -initrd first.gz -append "console=ttyS0 loglevel=4 panic=-1" | tee log
grep -q '^PACKETS ARE DELAYED' log
