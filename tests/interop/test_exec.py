"""`netstack exec` with real programs: curl, dig, ping, shells, signals."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tests.interop.conftest import RESOLVER, SERVER, SERVER6, UNNAMED

pytestmark = pytest.mark.interop

EXEC = (sys.executable, "-m", "netstack", "exec", "--dns", RESOLVER)
CURL = ("curl", "-sS", "--max-time", "10", "-w", "%{http_code}")


def test_resolved_name_is_reachable(network):
    done = network.exec("--", *CURL, "http://www.example.test/5")
    assert done.stdout == "xxxxx200", done.stderr
    assert done.returncode == 0


def test_hard_coded_address_is_refused_at_once(network):
    started = time.monotonic()
    done = network.exec("-v", "--", *CURL, f"http://{UNNAMED}/5")
    assert done.returncode == 7, done.stderr
    assert time.monotonic() - started < 5
    assert "[TCP] BLOCKED hardcoded IP: 10.0.0.2:" in done.stderr
    assert f"-> {UNNAMED}:80" in done.stderr


@pytest.mark.parametrize("enforcement", ["off", "audit"])
def test_hard_coded_address_is_reachable_without_enforcement(network, enforcement):
    done = network.exec("--enforcement", enforcement, "--", *CURL, f"http://{UNNAMED}/5")
    assert done.stdout == "xxxxx200", done.stderr


def test_address_is_reachable_by_number_once_it_was_resolved(network):
    script = f"curl -s --max-time 5 http://{SERVER}/1; dig +short four.example.test; curl -sS http://{SERVER}/3"
    done = network.exec("--", "sh", "-c", script)
    assert done.stdout == f"{SERVER}\nxxx", done.stderr


def test_ipv6_is_carried(network):
    done = network.exec("--", *CURL, "-6", "http://www.example.test/5")
    assert done.stdout == "xxxxx200", done.stderr


@pytest.mark.parametrize("codec", ["pure", "auto"])
def test_large_download_arrives_whole(network, codec):
    done = network.exec("--codec", codec, "--", *CURL, "-o", "/dev/null", "-w", "%{size_download}",
                        "http://www.example.test/20000000")  # fmt: skip
    assert done.stdout == "20000000", done.stderr


def test_dns_over_udp_and_tcp(network, need):
    need("dig")
    done = network.exec("--", "sh", "-c", "dig +short www.example.test A; dig +short +tcp www.example.test AAAA; "
                        "dig www.example.test @192.0.2.99 +short; dig nowhere.test | grep -o NXDOMAIN")  # fmt: skip
    assert done.stdout.split() == [SERVER, SERVER6, SERVER, "NXDOMAIN"], done.stderr


def test_ping_gets_only_true_answers(network, need):
    need("ping")
    done = network.exec("--enforcement", "off", "--", "sh", "-c",
                        f"ping -c1 -W5 {SERVER} && ping -6 -c1 -W5 {SERVER6} && ! ping -c1 -W1 192.0.2.99")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_udp_is_carried_both_ways(network):
    program = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); "
        "s.sendto(b'a' * 4000, (socket.gethostbyname('four.example.test'), 7)); print(len(s.recv(9000)))"
    )  # fmt: skip
    done = network.exec("--", sys.executable, "-c", program)
    assert done.stdout == "4000\n", done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [(("true",), 0), (("sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -9 $$"), 137),
     (("/nonexistent/program",), 127), (("/etc/passwd",), 126)],
)  # fmt: skip
def test_exit_status_is_the_programs(network, command, status):
    done = network.exec("--", *command)
    assert done.returncode == status
    assert ("netstack:" in done.stderr) == (status in (126, 127))
    assert "Traceback" not in done.stderr


def test_standard_streams_are_the_programs(network):
    done = network.exec("--", "sh", "-c", "cat; echo err >&2", input="in and out")
    assert (done.stdout, done.stderr) == ("in and out", "err\n")


def test_sandbox_has_loopback_its_own_resolver_and_no_other_interface(network):
    done = network.exec("--", "sh", "-c", "cat /etc/resolv.conf; ls /sys/class/net >/dev/null; ip -o link | wc -l; "
                        "ping -c1 -W2 127.0.0.1 >/dev/null && echo up")  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "nameserver 10.0.0.1"
    assert lines[-2:] == ["2", "up"], done.stderr


def snapshot():
    with open("/proc/mounts", encoding="utf-8") as mounts, open("/etc/resolv.conf", encoding="utf-8") as resolv:
        return mounts.read(), resolv.read(), sorted(os.listdir("/tmp/")), sorted(os.listdir("/sys/class/net"))


def test_nothing_on_the_host_is_changed(network):
    before = snapshot()
    program = "import os, pathlib; print(pathlib.Path('/etc/resolv.conf').read_text()); print(os.listdir('/tmp'))"
    done = network.exec("--", sys.executable, "-c", program)
    assert "nameserver 10.0.0.1" in done.stdout
    assert before[:2] == snapshot()[:2]
    assert before[3] == snapshot()[3]
    assert "resolv.conf" not in done.stdout.splitlines()[-1]


def start(network, *command):
    return network.start(*EXEC, "--", *command, stdin=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(network, number):
    process = start(network, "sh", "-c", f"trap 'exit 33' {number.name[3:]}; echo go; while :; do sleep 0.05; done")
    assert process.stdout.readline() == "go\n"
    process.send_signal(number)
    assert process.wait(10) == 33
    process.communicate()


def test_interrupt_from_the_terminal_reaches_the_program_once(network):
    ours, theirs = pty.openpty()
    program = "trap 'n=x$n' INT; echo go; i=0; while [ $i -lt 12 ]; do sleep 0.05; i=$((i+1)); done; echo [$n]; exit 5"
    process = network.start(
        "setsid", "--ctty", "--wait", *EXEC, "--", "sh", "-c", program, stdin=theirs, stdout=theirs, stderr=theirs,
        text=False,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"go" not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, b"\x03")
    with contextlib.suppress(OSError):  # EIO once the last descriptor of the other side is closed
        while chunk := os.read(ours, 1000):
            shown += chunk
    assert process.wait(10) == 5, shown
    assert b"[x]" in shown
    assert b"Traceback" not in shown
    os.close(ours)


def test_program_dies_with_netstack(network):
    process = start(network, sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    pid = int(process.stdout.readline())
    process.kill()
    process.wait(10)
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and "Z" not in _state(pid):
        assert time.monotonic() < end, "the program outlived netstack"
        time.sleep(0.02)
    process.communicate()


def _state(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]
    return "Z"


def test_events_are_json_lines(network, tmp_path):
    path = tmp_path / "events.ndjson"
    network.exec("--events", str(path), "--", *CURL, "http://four.example.test/5")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert "query_answered" in kinds and "flow_opened" in kinds
    assert all("time" in event and "at" in event for event in events)


def test_pcap_holds_both_directions(network, need, tmp_path):
    need("tshark")
    path = tmp_path / "traffic.pcapng"
    done = network.exec("--pcap", str(path), "--", *CURL, "http://four.example.test/3000")
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(["tshark", "-r", path, "-T", "fields", "-e", "ip.src", "-e", "_ws.expert.severity"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "10.0.0.2" in shown and SERVER in shown and "10.0.0.1" in shown


def test_unwritable_output_is_one_line(network):
    for option in ("--events", "--pcap"):
        done = network.exec(option, "/nonexistent/file", "--", "true")
        assert done.returncode == 1
        assert done.stderr == "netstack: /nonexistent/file: No such file or directory\n"


_AS_NOBODY = """
mount -t tmpfs -o mode=755 tmpfs /mnt && mknod /mnt/tun c 10 200 && chmod 666 /mnt/tun || exit
mount --bind /mnt/tun /dev/net/tun
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs "$@"
"""


def as_nobody(network, *command, **settings):
    return network.run("unshare", "--mount", "sh", "-c", _AS_NOBODY, "sh", *command, **settings)


def test_no_root_is_needed_where_user_namespaces_are_allowed(network, need):
    need("setpriv", "unshare")
    if as_nobody(network, "unshare", "--user", "--net", "true").returncode:
        pytest.skip("user namespaces are not allowed here")
    if as_nobody(network, sys.executable, "-c", "import netstack").returncode:
        pytest.skip("this checkout cannot be read without root")
    script = (
        "id -u; curl -sS http://www.example.test/4; ping -c1 -W2 10.0.0.1 >/dev/null && echo pong; "
        f"curl -s http://{UNNAMED}/; echo $?"
    )
    done = as_nobody(network, *EXEC, "--", "sh", "-c", script)
    assert done.stdout.split() == ["65534", "xxxxpong", "7"], done.stderr


def test_program_keeps_its_own_descriptor_limit(network):
    done = network.run("sh", "-c", 'ulimit -Sn 555; exec "$@"', "sh", *EXEC, "--", "sh", "-c", "ulimit -Sn")
    assert done.stdout == "555\n", done.stderr


def test_hosts_resolver_is_the_default(network, tmp_path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"search example.test\nnameserver {RESOLVER}\n")
    done = network.run("unshare", "--mount", "sh", "-c", f'mount --bind {resolv} /etc/resolv.conf; exec "$@"', "sh",
                       sys.executable, "-m", "netstack", "exec", "--", *CURL, "http://www/5")  # fmt: skip
    assert done.stdout == "xxxxx200", done.stderr


@pytest.mark.parametrize("mtu", [576, 1280, 9000, 65535])
def test_any_mtu_carries_traffic(network, mtu):
    done = network.exec("--mtu", str(mtu), "--", *CURL, "-4", "-o", "/dev/null", "-w", "%{size_download}",
                        "http://www.example.test/1000000")  # fmt: skip
    assert done.stdout == "1000000", done.stderr


def test_host_without_ipv6_has_sandboxes_without_it(network):
    off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
    inside = "import netstack.link.linux as linux, os; real = linux.unshare\n" \
        "def unshare(flags):\n    real(flags); os.system('" + off + "')\n" \
        "linux.unshare = unshare\nfrom netstack.cli import main; import sys; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    done = network.run(
        sys.executable, "-c", inside, "exec", "--dns", RESOLVER, "--", *CURL, "http://www.example.test/5"
    )
    assert done.stdout == "xxxxx200", done.stderr
