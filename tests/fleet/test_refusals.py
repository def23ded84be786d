"""A fault in a template is refused before it lands: the run says which file and why, and what was there serves on."""

import pytest

# template, what to plant where, playbook, host, file, what the checking program says about it
PLANTED = [
    ("nginx/nginx.conf", ("least_conn;", "least_con;"), "balancer.yml", "lb1", "/etc/nginx/nginx.conf", "least_con"),
    (
        "prometheus/prometheus.yml",
        ("scrape_configs:", "scrape_confgs:"),
        "monitoring.yml",
        "ops1",
        "/etc/prometheus/prometheus.yml",
        "scrape_confgs",
    ),
    (
        "redis/redis-cache.conf",
        ("maxmemory ", "maxmemry "),
        "data.yml",
        "ops1",
        "/etc/redis/redis-cache.conf",
        "maxmemry",
    ),
    (
        "systemd/system/bedplate-web@.service",
        ("WatchdogSec=", "WatchdgSec="),
        "inference.yml",
        "gpu1",
        "/etc/systemd/system/bedplate-web@.service",
        "WatchdgSec",
    ),
    (
        "sudoers.d/bedplate-admins",
        ("NOPASSWD:", "NOPASWD"),
        "base.yml",
        "gpu1",
        "/etc/sudoers.d/bedplate-admins",
        "syntax error",
    ),
]
ADMINS = '{"base_admins": [{"name": "ada", "keys": []}]}'


@pytest.mark.parametrize(("template", "fault", "playbook", "host", "path", "said"), PLANTED, ids=lambda value: None)
def test_a_broken_template_is_refused_and_the_old_file_serves(
    fleet, tree, predicts, template, fault, playbook, host, path, said
):
    source = tree / "templates" / "etc" / f"{template}.j2"
    text = source.read_text()
    assert fault[0] in text
    source.write_text(text.replace(*fault))
    units = "systemctl show --property=MainPID --value 'bedplate-*' nginx prometheus redis-server@cache"
    before = fleet.ssh(host, f"sha256sum {path} 2>&1 || true; {units}")

    run = fleet.playbook(playbook, f"--inventory={fleet.inventory}", "--limit", host, "-e", ADMINS, tree=tree)

    assert run.returncode != 0
    assert f"{path} is refused" in run.stdout or f"systemd-analyze verify: {path}" in run.stdout, run.stdout
    assert said in run.stdout
    assert fleet.ssh(host, f"sha256sum {path} 2>&1 || true; {units}") == before
    assert predicts()
