//! What a program may do, set up between clone and exec: capabilities(7), mount_namespaces(7), user_namespaces(7), seccomp(2).
//!
//! Everything is prepared by the parent; the child only makes system calls ([`super::spawn`]).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use crate::base::{PathAccess, Sandbox};
use crate::manifest::capabilities::SYS_ADMIN;

/// A step of a sandbox, for the word of what failed or was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    Namespace,
    Paths,
    PrivateTmp,
    Capabilities,
    Network,
}

impl Step {
    const ALL: [Self; 5] =
        [Self::Namespace, Self::Paths, Self::PrivateTmp, Self::Capabilities, Self::Network];

    /// Fields of `security` that a set of steps (one bit each) stands for.
    pub fn fields(bits: u32) -> Vec<&'static str> {
        let names = |step: &Self| match step {
            Self::Namespace => "a mount namespace (paths, privateTmp)",
            Self::Paths => "a rule of readOnlyPaths, readWritePaths or inaccessiblePaths",
            Self::PrivateTmp => "privateTmp",
            Self::Capabilities => "capabilities",
            Self::Network => "restrictNetwork",
        };
        Self::ALL.iter().filter(|step| bits & step.bit() != 0).map(names).collect()
    }

    pub fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Why a step failed: errno, and which path it was about.
pub struct Fault {
    pub step: Step,
    pub errno: i32,
    /// An index of [`Prepared::paths`].
    pub path: Option<usize>,
}

/// A sandbox with every text and table that the child needs.
pub struct Prepared {
    pub best_effort: bool,
    /// Mount namespace wanted; with maps for an own user namespace where we are not root.
    namespace: bool,
    maps: Option<(CString, CString)>,
    pub paths: Vec<PathRule>,
    tmp: Option<[CString; 2]>,
    /// The state directory: nothing in a sandbox reaches it (architecture §8).
    hidden: Option<CString>,
    /// What replaces a directory or a file that cannot be reached.
    nothing: [CString; 2],
    /// Capabilities that may be had, and those of them that it has at once.
    bounding: Option<u64>,
    ambient: u64,
    network: bool,
}

pub struct PathRule {
    path: CString,
    change: Change,
}

enum Change {
    /// A mount as it is, without what is mounted below it: parts of a read-only root.
    ReadOnlyMount,
    ReadOnly,
    ReadWrite,
    NoDirectory,
    NoFile,
}

/// What `privateTmp` replaces.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];
/// Not part of a read-only root, as with systemd's `ProtectSystem=strict`: interfaces of the kernel, not files.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Everything mounted but the kernel's own (proc_pid_mountinfo(5)).
fn mount_points() -> io::Result<Vec<std::path::PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| !KERNEL.iter().any(|kernel| point.starts_with(kernel))).collect())
}

/// `\040` is a blank, and so on.
fn unescape(word: &str) -> std::path::PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), word.as_bytes());
    while let [first, tail @ ..] = rest {
        let code =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::path::PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

impl PathRule {
    pub fn shown(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const AT_RECURSIVE: libc::c_int = 0x8000;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl Prepared {
    /// `run`: where the nothing that hides things, and the private directories of `name`, are made.
    pub fn new(sandbox: &Sandbox, run: &Path, name: &str) -> io::Result<Self> {
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::other("a NUL byte in a path"))
        };
        let namespace = sandbox.has_namespace();
        let mut rules = Vec::new();
        for (path, access) in &sandbox.paths {
            let path = Path::new(path);
            if path == Path::new("/") && *access == PathAccess::ReadOnly {
                for point in mount_points()? {
                    rules.push(PathRule { path: text(&point)?, change: Change::ReadOnlyMount });
                }
                continue;
            }
            // A path that is not there fails in the child, by its name.
            let change = match access {
                PathAccess::ReadOnly => Change::ReadOnly,
                PathAccess::ReadWrite => Change::ReadWrite,
                PathAccess::None if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) => Change::NoDirectory,
                PathAccess::None => Change::NoFile,
            };
            rules.push(PathRule { path: text(path)?, change });
        }
        let nothing = run.join("nothing");
        let (dir, file) = (nothing.join("dir"), nothing.join("file"));
        let (mut tmp, mut hidden) = (None, None);
        if namespace {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&nothing)?;
            if !dir.exists() {
                fs::DirBuilder::new().mode(0o000).create(&dir)?;
            }
            if !file.exists() {
                fs::write(&file, "")?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o000))?;
            }
            if sandbox.private_tmp {
                let base = private_tmp(run, name);
                let parts = ["tmp", "var-tmp"].map(|part| base.join(part));
                for part in &parts {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(part)?;
                    fs::set_permissions(part, fs::Permissions::from_mode(0o1777))?;
                }
                tmp = Some([text(&parts[0])?, text(&parts[1])?]);
            }
            let state = run.parent().unwrap_or(run);
            let covers = |path: &Path| state.starts_with(path);
            let covered = sandbox
                .paths
                .iter()
                .any(|(path, access)| *access == PathAccess::None && covers(Path::new(path)))
                || (sandbox.private_tmp && PRIVATE.iter().any(|path| covers(Path::new(path))));
            hidden = (!covered).then(|| text(state)).transpose()?;
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let map = |id: u32| CString::new(format!("{id} {id} 1")).expect("digits hold no NUL");
        let maps = (namespace && !uid.is_root()).then(|| (map(uid.as_raw()), map(gid.as_raw())));
        Ok(Self {
            best_effort: sandbox.best_effort,
            namespace,
            maps,
            paths: rules,
            tmp,
            hidden,
            nothing: [text(&dir)?, text(&file)?],
            bounding: sandbox.bounding,
            ambient: sandbox.ambient,
            network: sandbox.restrict_network,
        })
    }

    /// What needs the privileges of the parent: mounts, and the bounding set. Before the user changes. Bits of what was
    /// left out are added to `left_out` (`bestEffort`).
    ///
    /// # Safety
    /// To be called between clone and exec only: nothing is allocated.
    pub unsafe fn before_user(&self, left_out: &mut u32) -> Result<(), Fault> {
        // SAFETY: as for this function.
        unsafe {
            if self.namespace {
                match self.enter_namespace() {
                    Ok(()) => {
                        for index in 0..self.paths.len() {
                            self.settle(self.mount_path(index), left_out)?;
                        }
                        self.settle(self.mount_tmp(), left_out)?;
                        // Last of all: what is bound elsewhere comes from there.
                        let hidden = self.hidden.as_ref().is_none_or(|state| cover(&self.nothing[0], state));
                        self.settle(if hidden { Ok(()) } else { Err(fault(Step::Namespace)) }, left_out)?;
                    }
                    fault => self.settle(fault, left_out)?,
                }
            }
            self.settle(self.drop_bounding(), left_out)?;
            if self.ambient != 0 && libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 {
                self.settle(Err(fault(Step::Capabilities)), left_out)?;
            }
        }
        Ok(())
    }

    /// What is set once the user is the program's own and no new privileges can be had.
    ///
    /// # Safety
    /// To be called between clone and exec only: nothing is allocated.
    pub unsafe fn after_user(&self, left_out: &mut u32) -> Result<(), Fault> {
        // SAFETY: as for this function.
        unsafe {
            self.settle(self.raise_ambient(), left_out)?;
            self.settle(self.filter_network(), left_out)
        }
    }

    fn settle(&self, result: Result<(), Fault>, left_out: &mut u32) -> Result<(), Fault> {
        match result {
            Err(fault) if self.best_effort => {
                *left_out |= fault.step.bit();
                Ok(())
            }
            result => result,
        }
    }

    unsafe fn enter_namespace(&self) -> Result<(), Fault> {
        let user = if self.maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
        // SAFETY: plain system calls with prepared texts.
        unsafe {
            let mut ok = libc::unshare(libc::CLONE_NEWNS | user) == 0;
            if let Some((uid, gid)) = &self.maps {
                ok = ok
                    && write_file(c"/proc/self/setgroups", c"deny")
                    && write_file(c"/proc/self/uid_map", uid)
                    && write_file(c"/proc/self/gid_map", gid);
            }
            let flags = libc::MS_REC | libc::MS_SLAVE;
            let none = std::ptr::null();
            ok = ok && libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) == 0;
            if ok { Ok(()) } else { Err(fault(Step::Namespace)) }
        }
    }

    unsafe fn mount_tmp(&self) -> Result<(), Fault> {
        let Some([tmp, var_tmp]) = &self.tmp else { return Ok(()) };
        // SAFETY: as for `before_user`.
        // What is bound from a read-only mount is read-only.
        let place = |from, to| unsafe { bind(from, to) && set_read_only(to, false, AT_RECURSIVE) };
        let done = place(tmp, c"/tmp") && place(var_tmp, c"/var/tmp");
        if done { Ok(()) } else { Err(fault(Step::PrivateTmp)) }
    }

    unsafe fn mount_path(&self, index: usize) -> Result<(), Fault> {
        let rule = &self.paths[index];
        // SAFETY: as for `before_user`.
        let path = &rule.path;
        let done = unsafe {
            match rule.change {
                // One that is covered by another cannot be reached, so it need not be changed.
                Change::ReadOnlyMount => {
                    set_read_only(path, true, 0)
                        || last_errno() == libc::ENOENT
                        || last_errno() == libc::EINVAL
                }
                Change::ReadOnly => bind(path, path) && set_read_only(path, true, AT_RECURSIVE),
                Change::ReadWrite => bind(path, path) && set_read_only(path, false, AT_RECURSIVE),
                Change::NoDirectory => cover(&self.nothing[0], path),
                Change::NoFile => cover(&self.nothing[1], path),
            }
        };
        if done { Ok(()) } else { Err(Fault { path: Some(index), ..fault(Step::Paths) }) }
    }

    unsafe fn drop_bounding(&self) -> Result<(), Fault> {
        let Some(bounding) = self.bounding else { return Ok(()) };
        for capability in 0..64u64 {
            if bounding & (1 << capability) != 0 {
                continue;
            }
            // SAFETY: a number is all that is passed.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            // EINVAL: past the last one of this kernel.
            match if dropped == 0 { 0 } else { last_errno() } {
                0 => {}
                libc::EINVAL => break,
                // An ordinary user has none to lose, and gets none: `noNewPrivileges` is asked for with this (E1609).
                // SAFETY: as above.
                libc::EPERM if unsafe { libc::geteuid() } != 0 => break,
                _ => return Err(fault(Step::Capabilities)),
            }
        }
        Ok(())
    }

    unsafe fn raise_ambient(&self) -> Result<(), Fault> {
        if self.ambient == 0 {
            return Ok(());
        }
        /// `struct __user_cap_header_struct` and `__user_cap_data_struct` of linux/capability.h, version 3.
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        #[repr(C)]
        struct Data {
            effective: u32,
            permitted: u32,
            inheritable: u32,
        }
        let header = Header { version: 0x2008_0522, pid: 0 };
        let part =
            |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: bits as u32 };
        let data = [part(self.ambient), part(self.ambient >> 32)];
        // SAFETY: both structures are as the kernel reads them and outlive the call.
        unsafe {
            if libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) < 0 {
                return Err(fault(Step::Capabilities));
            }
            for capability in (0..64u64).filter(|capability| self.ambient & (1 << capability) != 0) {
                if libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0 {
                    return Err(fault(Step::Capabilities));
                }
            }
        }
        Ok(())
    }

    unsafe fn filter_network(&self) -> Result<(), Fault> {
        if !self.network {
            return Ok(());
        }
        let program = libc::sock_fprog { len: FILTER.len() as u16, filter: FILTER.as_ptr().cast_mut() };
        // SAFETY: the program is a constant and is only read.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if set == 0 { Ok(()) } else { Err(fault(Step::Network)) }
    }
}

/// The capabilities of this process (proc_pid_status(5), `CapPrm`).
pub fn own_capabilities() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a child can have mounts of its own: with CAP_SYS_ADMIN, or in a user namespace of its own.
pub fn mount_namespace() -> Result<(), String> {
    if own_capabilities() & SYS_ADMIN != 0 {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() {
        return Err("unisys is root without CAP_SYS_ADMIN".into());
    }
    let says = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    for (path, value) in [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ] {
        if says(path, value) {
            return Err(format!("ordinary users have no user namespaces here ({path} is {value})"));
        }
    }
    Ok(())
}

/// The private directories of an instance; the keeper takes them away with it.
fn private_tmp(run: &Path, name: &str) -> std::path::PathBuf {
    run.join(format!("{name}.tmp"))
}

fn last_errno() -> i32 {
    // SAFETY: the C library's errno of this thread.
    unsafe { *libc::__errno_location() }
}

fn fault(step: Step) -> Fault {
    Fault { step, errno: last_errno(), path: None }
}

unsafe fn bind(from: &std::ffi::CStr, to: &std::ffi::CStr) -> bool {
    let flags = libc::MS_BIND | libc::MS_REC;
    // SAFETY: both are C strings.
    unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) == 0 }
}

/// Something empty takes the place of a path. Nobody may put anything there, root included: others are covered by the same.
unsafe fn cover(nothing: &std::ffi::CStr, path: &std::ffi::CStr) -> bool {
    // SAFETY: as for `bind` and `set_read_only`.
    unsafe { bind(nothing, path) && set_read_only(path, true, AT_RECURSIVE) }
}

/// mount_setattr(2), Linux 5.12; with AT_RECURSIVE of everything mounted below it too.
unsafe fn set_read_only(path: &std::ffi::CStr, read_only: bool, flags: libc::c_int) -> bool {
    let (set, clear) = if read_only { (MOUNT_ATTR_RDONLY, 0) } else { (0, MOUNT_ATTR_RDONLY) };
    let attr = MountAttr { set, clear, propagation: 0, user_namespace: 0 };
    // SAFETY: the structure is as the kernel reads it and outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        ) == 0
    }
}

unsafe fn write_file(path: &std::ffi::CStr, text: &std::ffi::CStr) -> bool {
    // SAFETY: both are C strings; the descriptor is closed by whoever closes all of them.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let length = text.to_bytes().len();
        fd >= 0 && libc::write(fd, text.as_ptr().cast(), length) == length as isize && libc::close(fd) == 0
    }
}

const fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

const fn when(compare: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | compare | libc::BPF_K) as u16, jt: yes, jf: no, k: value }
}

const fn answer(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

const fn refuse(errno: i32) -> libc::sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// AUDIT_ARCH_* of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// No sockets but unix ones; what was handed over works on. io_uring could make sockets past this filter, and so could the
/// other calling conventions of an x86-64 kernel. Offsets are those of `struct seccomp_data`; jumps count from the next line.
static FILTER: [libc::sock_filter; 11] = [
    load(4),
    when(libc::BPF_JEQ, ARCH, 0, 8),
    load(0),
    // The x32 calls of an x86-64 kernel; no other machine has numbers that high.
    when(libc::BPF_JGE, 0x4000_0000, 6, 0),
    when(libc::BPF_JEQ, libc::SYS_io_uring_setup as u32, 5, 0),
    when(libc::BPF_JEQ, libc::SYS_socket as u32, 0, 3),
    load(16),
    when(libc::BPF_JEQ, libc::AF_UNIX as u32, 1, 0),
    refuse(libc::EAFNOSUPPORT),
    answer(libc::SECCOMP_RET_ALLOW),
    refuse(libc::ENOSYS),
];
