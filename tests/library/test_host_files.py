"""All files of a role in one go, and none if one is refused. On this machine's disk, as whoever runs the tests."""

import grp
import os
import pwd
import shutil
from concurrent.futures import ThreadPoolExecutor

import host_files
import pytest

OWN = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def wanted(path, content="x\n", **more):
    return {"path": str(path), "content": content, **OWN, **more}


def test_files_are_written_with_their_directories_and_modes(tmp_path):
    target = tmp_path / "new" / "one.conf"

    host_files.apply([wanted(target, "a = 1\n", mode="0640")], check_mode=False)

    assert target.read_text() == "a = 1\n"
    assert target.stat().st_mode & 0o7777 == 0o640


def test_a_second_time_nothing_changes(tmp_path):
    files = [wanted(tmp_path / "one"), {"path": str(tmp_path / "folder"), "state": "directory", **OWN}]
    host_files.apply(files, check_mode=False)

    assert host_files.apply(files, check_mode=False) == {}


def test_one_refused_file_keeps_all_from_landing(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("old\n")
    files = [wanted(good), wanted(bad, "broken\n", validate="grep -q right %s || { echo no right in %s; false; }")]

    with pytest.raises(host_files.Refused, match=f"{bad} is refused by .*: no right in {bad}"):
        host_files.apply(files, check_mode=False)

    assert not good.exists()
    assert bad.read_text() == "old\n"


def test_every_refused_file_is_named(tmp_path):
    files = [wanted(tmp_path / name, validate="false") for name in ("one", "two")]

    with pytest.raises(host_files.Refused, match=r"one is refused.*two is refused"):
        host_files.apply(files, check_mode=False)


def test_the_checked_copy_has_the_name_and_the_content_of_the_file(tmp_path):
    seen = tmp_path / "seen"
    check = f"echo $(basename %s) $(cat %s) > {seen}"

    host_files.apply([wanted(tmp_path / "web@1.service", "content", validate=check)], check_mode=False)

    assert seen.read_text() == "web@1.service content\n"


def test_a_dry_run_writes_nothing_but_shows_the_difference(tmp_path):
    target = tmp_path / "one"
    target.write_text("old\n")

    diffs = host_files.apply([wanted(target, "new\n")], check_mode=True)

    assert target.read_text() == "old\n"
    assert (diffs[str(target)]["before"][:4], diffs[str(target)]["after"][:4]) == ("old\n", "new\n")


def test_a_dry_run_forgives_a_program_that_is_not_installed_yet(tmp_path):
    files = [wanted(tmp_path / "one", validate="/no/such/program %s")]

    assert list(host_files.apply(files, check_mode=True)) == [str(tmp_path / "one")]
    with pytest.raises(host_files.Refused, match="not found"):
        host_files.apply(files, check_mode=False)


def test_a_dry_run_forgives_a_group_that_a_package_will_make(tmp_path):
    files = [wanted(tmp_path / "one", validate="not-a-program %s") | {"group": "nobody-at-all"}]

    assert list(host_files.apply(files, check_mode=True)) == [str(tmp_path / "one")]
    with pytest.raises(host_files.Refused, match="no group 'nobody-at-all'"):
        host_files.apply(files, check_mode=False)


def test_a_wrong_mode_is_put_right(tmp_path):
    target = tmp_path / "one"
    host_files.apply([wanted(target, mode="0600")], check_mode=False)
    target.chmod(0o644)

    diffs = host_files.apply([wanted(target, mode="0600")], check_mode=False)

    assert target.stat().st_mode & 0o7777 == 0o600
    assert "mode 0644" in diffs[str(target)]["before"]


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("x"), lambda path: (path / "inside").mkdir(parents=True)]
)
def test_what_is_declared_absent_goes_away(tmp_path, make):
    target = tmp_path / "stray"
    make(target)

    host_files.apply([{"path": str(target), "state": "absent"}], check_mode=False)

    assert not target.exists()


def test_an_absent_link_does_not_take_its_target_along(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)

    host_files.apply([{"path": str(link), "state": "absent"}], check_mode=False)

    assert target.exists()
    assert not link.is_symlink()


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "relative", "content": ""},
        {"path": "/x"},
        {"path": "/x", "state": "link"},
        {"path": "/x", "content": "", "vaildate": "true"},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(entry):
    with pytest.raises(host_files.Refused, match=r"wanted|give"):
        host_files.apply([entry], check_mode=False)


def test_an_unknown_owner_is_refused_by_name(tmp_path):
    with pytest.raises(host_files.Refused, match="no user 'nobody-at-all'"):
        host_files.apply([wanted(tmp_path / "one") | {"owner": "nobody-at-all"}], check_mode=False)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[Service]\nExecStart=/bin/true\nProtectHom=yes\n", "Unknown key 'ProtectHom'"),
        ("[Service]\nExecStart=/bin/true\nMemoryMax=lots\n", "MemoryMax|memory limit"),
        ("[Servic]\nExecStart=/bin/true\n", "no ExecStart"),
        ("[Service]\nExecStart=/no/such/program\n", "not executable"),
    ],
)
def test_a_unit_that_systemd_would_refuse_is_refused(tmp_path, monkeypatch, content, complaint):
    monkeypatch.setattr(host_files, "UNITS", str(tmp_path / "units"))
    target = tmp_path / "units" / "bedplate-try@.service"

    with pytest.raises(host_files.Refused, match=complaint):
        host_files.apply([wanted(target, content)], check_mode=False)

    assert not target.exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_units_of_one_task_may_name_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(host_files, "UNITS", str(tmp_path))
    socket = wanted(tmp_path / "bedplate-try@.socket", "[Socket]\nListenStream=127.0.0.1:1800%i\n")
    service = "[Unit]\nRequires=bedplate-try@%i.socket\n[Service]\nExecStart=/bin/true\n"

    diffs = host_files.apply([wanted(tmp_path / "bedplate-try@.service", service), socket], check_mode=False)

    assert len(diffs) == 2


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_a_drop_in_is_checked_with_its_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(host_files, "UNITS", str(tmp_path))
    unit = wanted(tmp_path / "bedplate-try.service", "[Service]\nExecStart=/bin/true\n")
    drop_in = tmp_path / "bedplate-try.service.d" / "bedplate.conf"

    with pytest.raises(host_files.Refused, match=r"bedplate\.conf.*Unknown key"):
        host_files.apply([unit, wanted(drop_in, "[Service]\nRestrat=always\n")], check_mode=False)


def test_several_hosts_may_delegate_the_same_files_to_one_at_once(tmp_path):
    """As every host does with the configuration of the store's sshd."""
    old = tmp_path / "old"

    def write(number):
        old.write_text("x")
        gone = {"path": str(old), "state": "absent"}
        return host_files.apply([gone, wanted(tmp_path / "new" / "one.conf", f"{number}\n")], check_mode=False)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(400)))

    assert os.listdir(tmp_path / "new") == ["one.conf"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_text("damaged\n"), "has other content"),
        (lambda path: path.chmod(0o666), "has mode 0666, not 0640"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "has state link, not file"),
    ],
)
def test_what_is_not_as_it_was_written_is_told_whatever_its_time(tmp_path, monkeypatch, harm, said):
    monkeypatch.setattr(host_files, "RECORDS", str(tmp_path / "records"))
    path = tmp_path / "one.conf"
    files = [wanted(path, mode="0640"), {"path": str(tmp_path / "never"), "state": "absent"}]
    assert host_files.differences() is None
    host_files.apply(files, check_mode=False)
    host_files.record(files)
    assert host_files.differences() == []

    before = path.stat()
    harm(path)
    if path.exists() and not path.is_symlink():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "never").touch()

    first, second = sorted(host_files.differences(), key=lambda line: "never" in line)
    assert said in first
    assert second == f"{tmp_path}/never is there again"
