"""What is to be done with a unit, from its properties and the times of its files. With a real systemd: tests/fleet."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import host_units
import pytest


@pytest.fixture
def unit(tmp_path, monkeypatch):
    """A unit that runs since `age_s` seconds."""
    monkeypatch.setattr(host_units, "READ", str(tmp_path / "read"))

    def make(age_s=10, state="active", file_state="enabled", invocation="1", **wanted):
        made = host_units.Unit({"name": "try.service", **wanted})
        started = int((time.clock_gettime(time.CLOCK_MONOTONIC) - age_s) * 1e6)
        made.properties = {
            "LoadState": "loaded",
            "ActiveState": state,
            "UnitFileState": file_state,
            "ConditionResult": "yes",
            "ExecMainStartTimestampMonotonic": str(started),
            "InvocationID": invocation,
        }
        return made

    return make


@pytest.fixture
def file(tmp_path):
    """A file that was written `age_s` seconds ago."""

    def make(age_s, name="try.conf"):
        path = tmp_path / name
        path.write_text("x")
        os.utime(path, (time.time() - age_s,) * 2)
        return str(path)

    return make


def words(unit):
    return [word for word, _ in unit.plan()]


def test_a_unit_newer_than_its_files_is_left_alone(unit, file):
    old = file(60)

    assert words(unit(restart_for=[old], reload_for=[old])) == []


def test_a_unit_older_than_its_file_is_restarted(unit, file):
    assert words(unit(restart_for=[file(1)])) == ["restart"]


def test_a_unit_that_can_is_reloaded_instead(unit, file):
    assert words(unit(reload_for=[file(1)])) == ["reload"]


def test_a_restart_makes_a_reload_needless(unit, file):
    new = file(1)

    assert words(unit(restart_for=[new], reload_for=[new])) == ["restart"]


def has_read(unit, seconds_ago=0):
    """As after a restart or reload at that time."""
    unit.remember(unit.files(), time.time() - seconds_ago)
    return unit


def test_a_reload_counts_as_having_read(unit, file):
    reloaded = has_read(unit(reload_for=[file(5)]))

    assert words(reloaded) == []


@pytest.mark.parametrize("kind", ["restart", "reload"])
def test_what_was_read_is_compared_by_its_content_whatever_its_time(unit, file, kind):
    path = file(5)
    made = has_read(unit(**{f"{kind}_for": [path]}))

    os.utime(path)
    assert words(made) == [], "the same content was touched"
    with open(path, "w") as changed:
        changed.write("y")
    os.utime(path, (time.time() - 600,) * 2)
    assert made.plan() == [(kind, f"it has not read {path}")], "a restore may set the time back"
    os.unlink(path)
    assert words(made) == [kind]


def test_one_that_others_started_since_has_read_what_was_there_then(unit, file):
    path = file(5)
    has_read(unit(restart_for=[path], invocation="1"))
    with open(path, "w") as changed:
        changed.write("y")

    assert words(unit(age_s=-1, restart_for=[path], invocation="2")) == []
    assert words(unit(age_s=60, restart_for=[path], invocation="2")) == ["restart"]


def test_two_roles_may_declare_one_unit_for_files_of_their_own(unit, file):
    """As the roles base and backup do with sshd."""
    one, other = file(60, "one.conf"), file(60, "other.conf")
    has_read(unit(reload_for=[one]))
    has_read(unit(reload_for=[other]))

    assert words(unit(reload_for=[one])) == []
    assert words(unit(reload_for=[other])) == []
    with open(one, "w") as changed:
        changed.write("y")
    assert words(unit(reload_for=[one])) == ["reload"]
    assert words(unit(reload_for=[other])) == []


def test_files_that_nothing_is_known_of_were_read_if_they_are_older_than_the_unit(unit, file):
    one, other = file(60, "one.conf"), file(60, "other.conf")
    has_read(unit(reload_for=[one]), seconds_ago=30)

    assert words(unit(age_s=-1, reload_for=[other])) == []
    assert words(unit(age_s=60, reload_for=[other])) == ["reload"]


def test_several_hosts_may_remember_one_unit_at_once(unit, file):
    made = unit(reload_for=[file(60)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: has_read(made), range(64)))

    assert words(made) == []


def test_the_mark_of_a_version_that_knew_times_only_counts_by_its_time(unit, file, tmp_path):
    made = unit(reload_for=[file(5)])
    (tmp_path / "read").mkdir()
    (tmp_path / "read/try.service").touch()

    assert words(made) == []
    os.utime(tmp_path / "read/try.service", (time.time() - 6,) * 2)
    assert words(made) == ["reload"]


def test_what_one_that_is_well_has_read_is_remembered_from_then_on(unit, file):
    path = file(60)
    made = unit(restart_for=[path])

    made.adopt()
    with open(path, "w") as changed:
        changed.write("y")
    os.utime(path, (time.time() - 60,) * 2)

    assert words(made) == ["restart"]


def test_anything_in_a_directory_counts(unit, file, tmp_path):
    (tmp_path / "models" / "digits").mkdir(parents=True)
    file(1, "models/digits/weights")

    assert words(unit(restart_for=[str(tmp_path / "models")])) == ["restart"]


def test_a_link_counts_as_itself_and_not_as_what_it_points_to(unit, file, tmp_path):
    (tmp_path / "release").mkdir()
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "release")
    os.utime(link, (time.time() - 60,) * 2, follow_symlinks=False)
    file(1, "release/program")

    assert words(unit(restart_for=[str(link)])) == []


def test_a_file_that_is_not_there_is_older_than_everything(unit):
    assert words(unit(restart_for=["/no/such/file"])) == []


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_unit_that_does_not_run_is_started(unit, state):
    assert words(unit(state=state)) == ["start"]


def test_one_that_tries_in_vain_to_start_tries_with_the_new_file(unit, file):
    assert words(unit(state="activating", restart_for=[file(1)])) == ["restart"]


def test_a_unit_declared_stopped_is_stopped_and_disabled_and_nothing_else(unit, file):
    made = unit(enabled=False, restart_for=[file(1)])
    made.stopped = True

    assert words(made) == ["disable", "stop"]


def test_an_undeclared_enablement_is_left_alone(unit):
    assert words(unit(file_state="disabled")) == []
    assert words(unit(file_state="disabled", enabled=True)) == ["enable"]


def test_a_unit_whose_conditions_do_not_hold_is_left_alone(unit):
    skipped = unit(state="inactive")
    skipped.properties |= {"ConditionResult": "no", "ConditionTimestampMonotonic": "1"}

    assert words(skipped) == []


def test_a_failing_test_keeps_the_unit_as_it_is(unit):
    with pytest.raises(host_units.Failed, match=r"try\.service is not touched: .* says: bad config"):
        unit(test="echo bad config; false").do("reload")


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(host_units, "RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


def test_what_was_declared_is_remembered(records):
    declared = [{"name": "a.service", "reload_for": ["/x"]}, {"name": "b.service"}]

    host_units.record("base", declared, strays=[])
    host_units.record("base", [{"name": "a.service", "enabled": True}], strays=["b.service"])

    assert host_units.recorded() == [{"name": "a.service", "enabled": True}]


def test_of_a_unit_that_two_roles_declare_both_are_remembered(records):
    host_units.record("base", [{"name": "ssh.service", "reload_for": ["/etc/ssh/sshd_config.d/00.conf"]}], strays=[])
    host_units.record("backup", [{"name": "ssh.service", "reload_for": ["/etc/ssh/sshd_config.d/10.conf"]}], strays=[])

    [unit] = host_units.recorded()

    assert sorted(unit["reload_for"]) == ["/etc/ssh/sshd_config.d/00.conf", "/etc/ssh/sshd_config.d/10.conf"]


def test_what_a_role_no_longer_declares_of_a_unit_is_forgotten_and_the_other_roles_stays(records):
    host_units.record("base", [{"name": "a.service", "reload_for": ["/old"]}], strays=[])
    host_units.record("backup", [{"name": "a.service", "reload_for": ["/other"]}], strays=[])
    host_units.record("base", [{"name": "a.service", "reload_for": ["/new"]}], strays=[])

    [unit] = host_units.recorded()

    assert sorted(unit["reload_for"]) == ["/new", "/other"]


def test_a_unit_is_up_enabled_and_tested_as_any_of_its_roles_wants(records):
    host_units.record("one", [{"name": "a.service", "state": "stopped", "enabled": False, "test": "x"}], strays=[])
    host_units.record("two", [{"name": "a.service", "enabled": True, "test": "y"}], strays=[])

    [unit] = host_units.recorded()

    assert not host_units.Unit(unit).stopped
    assert unit["enabled"] is True
    assert unit["test"] == "(x) && (y)"


def test_a_unit_that_all_its_roles_want_stopped_is_to_be_stopped(records):
    for role in ("one", "two"):
        host_units.record(role, [{"name": "a.service", "state": "stopped"}], strays=[])

    [unit] = host_units.recorded()

    assert host_units.Unit(unit).stopped
    assert "enabled" not in unit


def test_a_unit_that_is_no_longer_wanted_is_forgotten_for_every_role(records):
    for role in ("one", "two"):
        host_units.record(role, [{"name": "a@1.service"}], strays=[])

    host_units.record("one", [], strays=["a@1.service"])

    assert host_units.recorded() == []


def test_the_record_of_a_version_that_knew_no_roles_stands_until_a_role_declares_the_unit(records):
    records.mkdir()
    (records / "ssh.service").write_text('{"name": "ssh.service", "reload_for": ["/old"]}')
    assert host_units.recorded() == [{"name": "ssh.service", "reload_for": ["/old"]}]

    for _ in range(2):
        host_units.record("base", [{"name": "ssh.service", "reload_for": ["/new"]}], strays=[])
        assert host_units.recorded() == [{"name": "ssh.service", "reload_for": ["/new"]}]


def test_a_misspelt_key_is_refused():
    with pytest.raises(host_units.Failed, match="restrat_for"):
        host_units.Unit({"name": "a.service", "restrat_for": []})


def test_several_hosts_may_delegate_the_same_unit_to_one_at_once(records):
    """As every host does with the sshd of the store of backups."""
    wanted = [{"name": "ssh.service", "reload_for": ["/etc/ssh/sshd_config.d"]}]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: host_units.record("backup", wanted, strays=["old.service"]), range(400)))

    assert os.listdir(records) == ["backup:ssh.service"]
    assert host_units.recorded() == wanted


@pytest.mark.parametrize("name", [".x7f3", "ssh.service.new"])
def test_what_a_run_that_was_cut_off_left_is_no_unit(records, name):
    records.mkdir()
    (records / name).write_text("{")

    assert host_units.recorded() == []


@pytest.mark.parametrize(("check_mode", "remembered"), [(False, 1), (True, 0)])
def test_who_only_asks_declares_all_the_same_but_not_in_a_dry_run(records, monkeypatch, check_mode, remembered):
    """The role base asks whether sshd has to read, and reloads it behind a way back if it has."""
    monkeypatch.setattr(host_units, "run", lambda *command: (0, "ActiveState=inactive"))

    done = host_units.apply([{"name": "a.service"}], [], "base", check_mode=check_mode, ask=True)

    assert done == ["start a.service: it was inactive"]
    assert len(host_units.recorded()) == remembered
