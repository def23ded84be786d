"""playbooks/check.yml finds nothing amiss on a real kernel."""


def test_check_says_that_all_is_well(fleet):
    run = fleet.playbook("check.yml")

    assert run.returncode == 0, run.stdout
