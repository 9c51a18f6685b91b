"""Privileges and the roles that every installation has."""

from __future__ import annotations

VM_CONFIG = {
    f"VM.Config.{part}" for part in ["CDROM", "CPU", "Cloudinit", "Disk", "HWType", "Memory", "Network", "Options"]
}
VM_USE = {"VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.PowerMgmt"}
VM_ADMIN = VM_CONFIG | VM_USE | {"VM.Allocate", "VM.Clone", "VM.Migrate", "VM.Snapshot", "VM.Snapshot.Rollback"}
AGENT = {f"VM.GuestAgent.{part}" for part in ["Audit", "FileRead", "FileSystemMgmt", "FileWrite", "Unrestricted"]}
DATASTORE = {"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"}
SYS = {f"Sys.{part}" for part in ["AccessNetwork", "Audit", "Console", "Incoming", "Modify", "PowerMgmt", "Syslog"]}
SDN = {"SDN.Allocate", "SDN.Audit", "SDN.Use"}
ACCESS = {"Group.Allocate", "Permissions.Modify", "Realm.Allocate", "Realm.AllocateUser", "User.Modify"}
OTHER = {"Mapping.Audit", "Mapping.Modify", "Mapping.Use", "Pool.Allocate", "Pool.Audit"}


def all_privileges(pve_version: int) -> set[str]:
    """VM.Monitor went away in version 9, where the agent's own privileges came."""
    common = VM_ADMIN | DATASTORE | SYS | SDN | ACCESS | OTHER
    return common | (AGENT | {"VM.Replicate"} if pve_version >= 9 else {"VM.Monitor"})


def builtin_roles(pve_version: int) -> dict[str, set[str]]:
    """The roles nobody may change."""
    known = all_privileges(pve_version)
    agent_audit = {"VM.GuestAgent.Audit"} if pve_version >= 9 else {"VM.Monitor"}
    guests = VM_ADMIN | (AGENT | {"VM.Replicate"} if pve_version >= 9 else {"VM.Monitor"})
    audit = {privilege for privilege in known if privilege.endswith(".Audit")}
    return {
        "Administrator": known,
        "NoAccess": set(),
        "PVEAdmin": known - {"Permissions.Modify", "Realm.Allocate", "Sys.Modify", "Sys.PowerMgmt"},
        "PVEAuditor": audit,
        "PVEDatastoreAdmin": DATASTORE,
        "PVEDatastoreUser": {"Datastore.AllocateSpace", "Datastore.Audit"},
        "PVEMappingAdmin": {"Mapping.Audit", "Mapping.Modify", "Mapping.Use"},
        "PVEMappingUser": {"Mapping.Audit", "Mapping.Use"},
        "PVEPoolAdmin": {"Pool.Allocate", "Pool.Audit"},
        "PVEPoolUser": {"Pool.Audit"},
        "PVESDNAdmin": SDN,
        "PVESDNUser": {"SDN.Audit", "SDN.Use"},
        "PVESysAdmin": {"Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Syslog"},
        "PVETemplateUser": {"VM.Audit", "VM.Clone"},
        "PVEUserAdmin": {"Group.Allocate", "Realm.AllocateUser", "User.Modify"},
        "PVEVMAdmin": guests,
        "PVEVMUser": VM_USE | agent_audit,
    }
