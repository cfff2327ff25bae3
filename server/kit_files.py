"""The texts of a site's kit: what the site edits, its service manager's unit, and one page that explains."""

import json
from datetime import datetime

from server.federation import FederationSettings

_SITE = """\
# What this site says about itself. Complete "data"; everything here is this site's own decision.

# Name of the site, as in kit.toml.
name = {name}
# Folder of normal scans: {layouts}. A relative path starts at this file's folder.
data = "scans"
# How many normal scans to draw from it, and the seed of that draw.
shots = {shots}
seed = 0
# The frozen model on this site's own disk: "embedded", "local-dir:FOLDER", "NAME:TAG" or "NAME:FILE".
backbone = {spec}
{sha256}taps = {taps}
# Torch threads and device.
threads = 1
device = "cpu"
# The policy: last round that is answered, fewest images to train on, the numbers that may leave, and how many
# images such a number must stand for.
max_rounds = {rounds}
min_images = 4
metrics = ["train_loss"]
min_metric_images = 8
# A user of this machine that talks to the coordinator and cannot read the scans; README.md says how.
# clientapp_user = "mediclip-node"

# Noise that hides single images, or the site: docs/privacy.md says what it costs.
[privacy]
mode = "none"
"""

_UNIT = """\
[Unit]
Description=MediCLIP, site {site} of the federation {federation}
After=network-online.target
Wants=network-online.target

[Service]
# The kit lies in /etc/mediclip/{site}, and its owner is the user mediclip.
User=mediclip
ExecStart=/usr/bin/env mediclip client start --kit /etc/mediclip/{site}
Restart=always
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths=/etc/mediclip/{site}

[Install]
WantedBy=multi-user.target
"""

_DAEMON_UNIT = """\
[Unit]
Description=MediCLIP, daemon of site {site} of the federation {federation}

[Service]
# One of two units for a site whose site.toml says clientapp_user = "mediclip-node": this one reads the scans
# and has no network. The kit's folders state and door belong to mediclip, node and node_key to mediclip-node.
User=mediclip
SupplementaryGroups=mediclip-node
ExecStart=/usr/bin/env mediclip client start --kit /etc/mediclip/{site} --part daemon
Restart=always
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
PrivateNetwork=yes
ProtectSystem=strict
ReadWritePaths=/etc/mediclip/{site}/state /etc/mediclip/{site}/door

[Install]
WantedBy=multi-user.target
"""

_NODE_UNIT = """\
[Unit]
Description=MediCLIP, network side of site {site} of the federation {federation}
After=network-online.target mediclip-daemon.service
Wants=network-online.target mediclip-daemon.service

[Service]
# The other of two units: it talks to the coordinator and cannot read the scans. Name their folder here too.
User=mediclip-node
InaccessiblePaths=-/etc/mediclip/{site}/scans -/etc/mediclip/{site}/state
ExecStart=/usr/bin/env mediclip client start --kit /etc/mediclip/{site} --part node
Restart=always
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths=/etc/mediclip/{site}/node

[Install]
WantedBy=multi-user.target
"""

_SERVER_UNIT = """\
[Unit]
Description=MediCLIP, coordinator of the federation {federation}
After=network-online.target
Wants=network-online.target

[Service]
# federation.toml and the folder kits lie in /etc/mediclip, and their owner is the user mediclip.
User=mediclip
ExecStart=/usr/bin/env mediclip server start /etc/mediclip/federation.toml --out /var/lib/mediclip --resume
StateDirectory=mediclip
# Whatever kills the coordinator, the run goes on after its last finished round. Errors of the settings (2),
# of a file (6) or of the federation (7) wait for a person.
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2 6 7
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""

_README = """\
# Kit of {site} for the federation {federation}

This folder lets one site take part. Only trained adapter and prompt tensors and the numbers that `site.toml`
names leave the site, over outbound connections to {superlink}.

1. Check that `node_key` is readable by its owner alone: `chmod 600 node_key`. Whoever has this file can pose
   as the site. Tell the coordinator at once if it gets lost.
2. Install the same version of mediclip-fl as the coordinator. Its source must have the digest
   `{digest}`.
3. Edit `site.toml`: where the normal scans lie and where the backbone lies on this machine.
4. `mediclip client check --kit .` says in plain words what is missing, and shows exactly what would leave.
5. `mediclip client start --kit .` takes part until it is stopped. As a service: copy the folder to
   `/etc/mediclip/{site}`, then `mediclip-client.service` to `/etc/systemd/system`, and run
   `systemctl enable --now mediclip-client`.
6. Stronger, with a user of its own for the network side, which cannot read the scans: set `clientapp_user`
   in `site.toml`, and in place of step 5

       useradd --system mediclip; useradd --system mediclip-node
       cd /etc/mediclip/{site}
       install -d -o mediclip -m 700 state
       install -d -o mediclip -g mediclip-node -m 750 door
       install -d -o mediclip-node -m 700 node
       chown mediclip-node node_key
       cp mediclip-daemon.service mediclip-node.service /etc/systemd/system
       systemctl enable --now mediclip-daemon mediclip-node

The key is good until {not_after}. The coordinator can revoke it at any time; the site can stop at any time.
Research use only: no result may guide the care of a patient.

| file | what it is |
|---|---|
| kit.toml | federation, address, site and digest, written by the coordinator; leave it as it is |
| site.toml | this site's own settings and policy |
| ca.crt | certificate of the federation's authority, by which the coordinator is known |
| node_key, node_key.pub | this site's key and its public half |
| mediclip-client.service | unit for systemd |
| mediclip-daemon.service, mediclip-node.service | two units, each with a user of its own |
"""


def kit_toml(settings: FederationSettings, site: str, digest: str, not_after: datetime) -> str:
    """Write what the coordinator says to a site.

    Args:
        settings: The federation.
        site: Name of the site.
        digest: SHA-256 of the application's source, as hexadecimal.
        not_after: When the site's key expires.

    Returns:
        The text of ``kit.toml``.
    """
    return (
        f"federation = {_text(settings.name)}\n"
        f"superlink = {_text(settings.address)}\n"
        f"site = {_text(site)}\n"
        f"app_source_sha256 = {_text(digest)}\n"
        f"not_after = {not_after.isoformat()}\n"
    )


def site_toml(settings: FederationSettings, site: str) -> str:
    """Write the settings that a site completes."""
    sha256 = settings.backbone.sha256
    return _SITE.format(
        name=_text(site),
        layouts="MediCLIP sample lists, or normal/, abnormal/ and masks/",
        shots=settings.shots,
        spec=_text(settings.backbone.spec),
        sha256="" if sha256 is None else f"backbone_sha256 = {_text(sha256)}\n",
        taps=list(settings.taps),
        rounds=settings.rounds,
    )


def units(settings: FederationSettings, site: str) -> dict[str, str]:
    """Write the site's units for systemd: one for both its programs, or one for each, by file name."""
    texts = {"client": _UNIT, "daemon": _DAEMON_UNIT, "node": _NODE_UNIT}
    return {
        f"mediclip-{part}.service": text.format(site=site, federation=settings.name)
        for part, text in texts.items()
    }


def server_unit(settings: FederationSettings) -> str:
    """Write the coordinator's unit for systemd, which resumes the run whenever its process was killed."""
    return _SERVER_UNIT.format(federation=settings.name)


def readme(settings: FederationSettings, site: str, digest: str, not_after: datetime) -> str:
    """Write the page that explains a kit."""
    return _README.format(
        site=site,
        federation=settings.name,
        superlink=settings.address,
        digest=digest,
        not_after=f"{not_after:%d %B %Y}",
    )


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is also one of TOML
