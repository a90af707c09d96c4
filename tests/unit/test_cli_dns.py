"""`netstack dns`: its options, what they configure, and what wrong ones are answered."""

import json
import signal

import pytest

from netstack.cli import dns as module
from netstack.cli import main
from netstack.core.errors import NetstackError
from netstack.core.network import Network
from netstack.core.stats import Stats


class Server:
    """Takes the place of DnsServer."""

    made = None
    end: "int | Exception" = signal.SIGTERM

    def __init__(self, config, *, emit, logged, read_network, watch_routes):
        type(self).made = self
        self.config, self.emit, self.logged, self.network = config, emit, logged, read_network(config)
        self.stats = Stats()
        self.stopped_by = None

    @property
    def changes(self):
        return self

    def flush_cache(self):
        self.flushed = True

    def reload(self, read):
        assert read() == self.config
        self.reloaded = True

    def run(self, *, on_ready, stop_signals, handlers):
        assert set(stop_signals) == {signal.SIGTERM, signal.SIGINT}
        if isinstance(self.end, Exception):
            raise self.end
        on_ready()
        handlers[signal.SIGUSR1]()
        handlers[signal.SIGUSR2]()
        assert self.flushed
        handlers[signal.SIGHUP]()
        assert self.reloaded
        self.stopped_by = self.end


@pytest.fixture(autouse=True)
def server(monkeypatch):
    Server.made, Server.end = None, signal.SIGTERM
    monkeypatch.setattr(module, "DnsServer", Server)
    return Server


def test_without_options_it_listens_on_loopback_and_asks_the_hosts_resolvers(monkeypatch, capsys):
    monkeypatch.setattr(module, "host_resolvers", lambda: ("192.0.2.53",))
    monkeypatch.setattr(module, "host_network", lambda config, family: Network(servers=("192.0.2.53",)))
    assert main(["dns"]) == 0
    assert Server.made.config.server.listen == ("127.0.0.1:5354",)
    assert Server.made.config.dns.servers == ("192.0.2.53",)
    assert not Server.made.logged
    assert Server.made.network.servers == ("192.0.2.53",)
    assert Server.made.config.answers.strip_h3 == "off", "nobody here blocks QUIC"
    shown = capsys.readouterr()
    assert shown.out == "ready\n"
    assert json.loads(shown.err)["dns_queries"] == 0


def test_a_host_whose_resolver_it_is_makes_no_loop(monkeypatch, capsys):
    monkeypatch.setattr(module, "host_resolvers", lambda: ("127.0.0.1", "192.0.2.53"))
    monkeypatch.setattr(module, "host_network", lambda config, family: Network(servers=("127.0.0.1", "192.0.2.53")))
    assert main(["dns", "--listen", "127.0.0.1:53"]) == 0
    assert Server.made.config.dns.servers == ("192.0.2.53",) == Server.made.network.servers
    assert main(["dns", "--listen", "127.0.0.1:5399"]) == 0
    assert Server.made.config.dns.servers == ("127.0.0.1", "192.0.2.53"), "another port is another server"
    monkeypatch.setattr(module, "host_resolvers", lambda: ("127.0.0.1",))
    capsys.readouterr()
    assert main(["dns", "--listen", "127.0.0.1:53"]) == 1
    assert "--upstream" in capsys.readouterr().err
    assert main(["dns", "--listen", "127.0.0.1:53", "--upstream", "192.0.2.1"]) == 0


@pytest.mark.parametrize("loop", [("--upstream", "udp://127.0.0.1"), ("--upstream", "tcp://127.0.0.1:53"),
                                  ("--upstream", "127.0.0.1"), ("--bootstrap", "127.0.0.1:53")])  # fmt: skip
def test_an_upstream_that_is_this_server_is_refused(loop, capsys):
    arguments = ["dns", "--listen", "127.0.0.1:53", "--upstream", "192.0.2.1", *loop]
    assert main(arguments) == 1 and Server.made is None
    error = capsys.readouterr().err
    assert loop[1] in error and "where this server listens" in error and error.count("\n") == 1
    assert main(["dns", "--listen", "127.0.0.1:5399", *arguments[3:]]) == 0, "another port is another server"


def test_options_go_over_the_file(tmp_path):
    file = tmp_path / "resolver.toml"
    file.write_text('[dns]\nupstreams = ["udp://192.0.2.1"]\n[server]\nlisten = ["127.0.0.1:99"]\ntcp_idle = 3')
    assert main(["dns", "--config", str(file)]) == 0
    assert Server.made.config.dns.upstreams == ("udp://192.0.2.1",)
    assert Server.made.config.server.listen == ("127.0.0.1:99",)
    arguments = ["--upstream", "tcp://192.0.2.2", "--listen", "::1", "--listen", "127.0.0.1:53"]
    assert main(["dns", "--config", str(file), *arguments]) == 0
    assert Server.made.config.dns.upstreams == ("tcp://192.0.2.2",)
    assert Server.made.config.server.listen == ("[::1]:5354", "127.0.0.1:53")
    assert Server.made.config.server.tcp_idle == 3.0


def test_it_caches_unless_told_otherwise(tmp_path):
    file = tmp_path / "resolver.toml"
    file.write_text('[cache]\nuse = "off"')
    for arguments, use in [([], "on"), (["--cache", "off"], "off"), (["--config", str(file)], "off")]:
        assert main(["dns", "--upstream", "192.0.2.1", *arguments]) == 0
        assert Server.made.config.cache.use == use


def test_lists_of_the_options_are_added_to_those_of_the_file(tmp_path):
    file = tmp_path / "resolver.toml"
    file.write_text('[filter]\nblock = ["a"]')
    arguments = ["--config", str(file), "--upstream", "192.0.2.1", "--block", "b", "--allow", "c"]
    assert main(["dns", *arguments]) == 0
    assert Server.made.config.filter.block == ("a", "b")
    assert Server.made.config.filter.allow == ("c",)


def test_lists_are_compiled_into_one_file(tmp_path, capsys):
    one, two, made = tmp_path / "one", tmp_path / "two", tmp_path / "made.nsl"
    one.write_text("ads.example\n0.0.0.0 host.example\n")
    two.write_text("||x.example^\nnot a name/path\n")
    assert main(["dns", "compile", str(one), str(two), "-o", str(made)]) == 0
    shown = capsys.readouterr().out
    assert "3 names" in shown and "1 lines left out" in shown and "two:2" in shown
    assert main(["dns", "compile", str(tmp_path / "none"), "-o", str(made)]) == 1
    assert "none: cannot be read" in capsys.readouterr().err
    assert main(["dns", "compile", str(one)]) == 2
    assert "--output" in capsys.readouterr().err
    assert Server.made is None


def test_ctrl_c_is_130(server):
    server.end = signal.SIGINT
    assert main(["dns", "--upstream", "192.0.2.1"]) == 130


def test_the_log_ends_with_the_counters(tmp_path):
    log = tmp_path / "log.ndjson"
    assert main(["dns", "--upstream", "192.0.2.1", "--log", str(log)]) == 0
    assert Server.made.logged
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "counters"


def test_other_addresses_need_peers():
    assert main(["dns", "--upstream", "192.0.2.1", "--listen", "192.0.2.7", "--allow-peers", "192.0.2.0/24,::/0"]) == 0
    assert Server.made.config.server.allow_peers == ("192.0.2.0/24", "::/0")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--listen", "192.0.2.7:53"], 2, ("--listen", "192.0.2.7", "--allow-peers")),
        (["--listen", "0.0.0.0:53", "--allow-peers", "192.0.2.0/24"], 2, ("--listen", "0.0.0.0")),
        (["--listen", "localhost:53"], 2, ("--listen", "localhost")),
        (["--listen", "127.0.0.1:99999"], 2, ("--listen", "99999")),
        (["--allow-peers", "192.0.2.0/99"], 2, ("--allow-peers", "192.0.2.0/99")),
        (["--log", "/nowhere/at/all"], 1, ("--log", "/nowhere/at/all")),
        (["--config", "/nowhere/at/all"], 1, ("/nowhere/at/all",)),
        (["--upstream", "ftp://x"], 2, ("--upstream", "ftp://x")),
        (["extra"], 2, ("extra",)),
    ],
)
def test_what_is_wrong_is_named_in_one_line(arguments, status, words, capsys):
    assert main(["dns", "--upstream", "192.0.2.1", *arguments]) == status
    error = capsys.readouterr().err
    assert error.startswith("netstack: ") and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert Server.made is None


def test_a_key_that_is_wrong_is_named_with_its_file(tmp_path, capsys):
    file = tmp_path / "resolver.toml"
    file.write_text('[server]\nlisten = ["192.0.2.7:53"]')
    assert main(["dns", "--config", str(file)]) == 1
    assert "resolver.toml: server.listen: '192.0.2.7:53' is not loopback" in capsys.readouterr().err


def test_an_address_that_is_taken_is_status_1(server, capsys):
    server.end = NetstackError("cannot listen on 127.0.0.1:5354 (UDP): Address already in use")
    assert main(["dns", "--upstream", "192.0.2.1"]) == 1
    assert capsys.readouterr().err == "netstack: cannot listen on 127.0.0.1:5354 (UDP): Address already in use\n"
