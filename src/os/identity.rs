//! Users and groups by name (getpwnam(3), getgrnam(3), getgrouplist(3)).

use std::ffi::{CStr, CString};

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
    pub shell: String,
}

impl User {
    /// What a program is told of the user that it runs as (systemd.exec(5), `User=`). A shell that lets nobody in is none.
    pub fn variables(&self) -> Vec<(&'static str, &str)> {
        let mut found = vec![("HOME", self.home.as_str()), ("USER", &self.name), ("LOGNAME", &self.name)];
        let none = ["", "/bin/false", "/usr/bin/false"].contains(&self.shell.as_str());
        if !none && !self.shell.ends_with("/nologin") {
            found.push(("SHELL", &self.shell));
        }
        found
    }
}

/// A user by name or number.
pub fn user(name: &str) -> Option<User> {
    let text = CString::new(name).ok()?;
    let mut buffer = vec![0 as libc::c_char; 16 << 10];
    // SAFETY: every pointer refers to memory of ours that outlives the call; passwd is plain data.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getpwnam_r(text.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        if found.is_null() {
            let uid = name.parse().ok()?;
            libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
            if found.is_null() {
                return None;
            }
        }
        let mut groups = vec![0 as libc::gid_t; 256];
        let mut count = groups.len() as libc::c_int;
        let got = libc::getgrouplist(entry.pw_name, entry.pw_gid, groups.as_mut_ptr(), &mut count);
        groups.truncate(if got < 0 { 0 } else { count as usize });
        let text = |text: *const libc::c_char| match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        };
        Some(User {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            groups,
            name: text(entry.pw_name),
            home: text(entry.pw_dir),
            shell: text(entry.pw_shell),
        })
    }
}

/// The name of a user, if there is one of that number.
pub fn name_of(uid: u32) -> Option<String> {
    let mut buffer = vec![0 as libc::c_char; 16 << 10];
    // SAFETY: as above; the name lies in the buffer, and ends with a NUL.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        (!found.is_null()).then(|| CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned())
    }
}

/// A group's id by name or number.
pub fn group(name: &str) -> Option<u32> {
    let text = CString::new(name).ok()?;
    let mut buffer = vec![0 as libc::c_char; 64 << 10];
    // SAFETY: as above.
    let found = unsafe {
        let mut entry: libc::group = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getgrnam_r(text.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        (!found.is_null()).then_some(entry.gr_gid)
    };
    found.or_else(|| name.parse().ok())
}
