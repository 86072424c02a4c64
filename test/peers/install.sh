#!/usr/bin/env bash
# Installs the real peers that the end-to-end tests talk to, from Debian's or
# Ubuntu's packages. Does nothing where all of them are present. What cannot be
# installed is named, with the command that would do it; that is an error only
# with HEADGATE_TEST_PEERS=required. HEADGATE_TEST_PEERS=none installs nothing.
set -euo pipefail

mode=${HEADGATE_TEST_PEERS:-auto}

# A peer counts as present by what the tests use of it, not by a package's name:
# another build of nginx must not be replaced behind its owner's back.
missing=()
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
have gcc || have cc || missing+=(gcc libc6-dev)
have ffmpeg && have ffprobe || missing+=(ffmpeg)
have faad || missing+=(faad)
have twolame || missing+=(twolame)
have srt-live-transmit || missing+=(srt-tools)
have openssl || missing+=(openssl)
have chromium || have chromium-browser || have google-chrome || missing+=(chromium)
have stunnel4 || have stunnel || missing+=(stunnel4)
have nginx || missing+=(nginx-light)
have firefox-esr || missing+=(firefox-esr)
have turnserver || missing+=(coturn)
have ip || missing+=(iproute2)
have nft || missing+=(nftables)
/usr/bin/python3 -c 'import gi
for name, version in ("Gst", "1.0"), ("GstWebRTC", "1.0"), ("GstSdp", "1.0"):
	gi.require_version(name, version)
from gi.repository import Gst
Gst.init(None)
for element in "webrtcbin", "nicesrc", "x264enc", "opusenc", "rtph264pay", "rtmpsink", "rtmp2sink", "flvmux":
	assert Gst.ElementFactory.find(element), element' 2>/dev/null && have gst-launch-1.0 ||
	missing+=(python3-gi gir1.2-gst-plugins-bad-1.0 gstreamer1.0-tools gstreamer1.0-nice gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly)
/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || missing+=(python3-grpcio python3-protobuf)
[ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || missing+=(libnginx-mod-rtmp)

if [ ${#missing[@]} -eq 0 ]; then
	echo "peers: all present"
	exit 0
fi

give_up() {
	echo "peers: $1"
	echo "peers: tests that need these packages cannot run: ${missing[*]}"
	echo "peers: to run them: sudo apt-get install --no-install-recommends ${missing[*]}"
	[ "$mode" = required ] && exit 1
	exit 0
}

[ "$mode" = none ] && give_up "HEADGATE_TEST_PEERS=none: nothing is installed"
command -v apt-get >/dev/null 2>&1 || give_up "no apt-get here"
sudo=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || give_up "neither root nor able to sudo without a password"
	sudo=(sudo -n)
fi

# nginx, stunnel and coturn would start a service as soon as they are unpacked. The
# policy below forbids it while we install, unless the machine has one already.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
	"${sudo[@]}" chmod 755 $policy
	trap '"${sudo[@]}" rm -f $policy' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
echo "peers: installing ${missing[*]}"
log=$(mktemp)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -n 40 "$log"
	rm -f "$log"
	give_up "apt-get could not install them"
fi
rm -f "$log"

# Nor shall they start with the next boot of a developer's machine.
for unit in nginx stunnel4 coturn; do
	case " ${missing[*]} " in
	*" $unit"*) command -v systemctl >/dev/null 2>&1 && "${sudo[@]}" systemctl disable "$unit" >/dev/null 2>&1 || true ;;
	esac
done
echo "peers: installed"
