//! What this process sets for itself: its orphans, its descriptors, its memory.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The calling process adopts its orphaned descendants (PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: plain call.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one; gives what it was, for children.
pub fn raise_nofile() -> (u64, u64) {
    // SAFETY: the structure is ours.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let original = (limit.rlim_cur, limit.rlim_max);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        original
    }
}

/// How many files this process may have open (getrlimit(2)): their numbers are below this.
pub fn file_limit() -> u64 {
    file_limits().0
}

/// The same, and how far it may raise that.
pub fn file_limits() -> (u64, u64) {
    limit(libc::RLIMIT_NOFILE)
}

/// The lowest nice value that this process may set without a right to set any (RLIMIT_NICE, getrlimit(2)).
pub fn lowest_nice() -> i32 {
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let (allowed, _) = limit(libc::RLIMIT_NICE);
    own.min(20 - allowed.min(40) as i32)
}

fn limit(of: libc::__rlimit_resource_t) -> (u64, u64) {
    // SAFETY: the structure is ours.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(of, &mut limit);
        (limit.rlim_cur, limit.rlim_max)
    }
}

/// Makes room for this many descriptors; to be called while there is one thread. Where threads share the table, each doubling
/// of it waits for every processor to have let go of the old one (RCU), and whoever opens anything meanwhile waits too: 54 ms
/// in all on the way to 4,000 descriptors, against 14 µs at once (measured).
pub fn reserve_descriptors(count: i32) {
    let Ok(null) = fs::File::open("/dev/null") else { return };
    // Where the limit is lower there is no room to be made.
    drop(rustix::io::fcntl_dupfd_cloexec(&null, count - 1));
}

/// Freed memory goes back to the system; pages of the program go with the next [`forget_program_if_asked`].
pub fn trim_memory() {
    // SAFETY: plain call.
    unsafe { libc::malloc_trim(0) };
    FORGET.store(true, Ordering::Relaxed);
}

/// Whether pages of the program are to be let go before the next sleep.
static FORGET: AtomicBool = AtomicBool::new(false);

/// To be called right before a thread sleeps: what only the start needed, and what the last turn touched, need not stay in
/// memory while nothing happens.
pub fn forget_program_if_asked() {
    if FORGET.swap(false, Ordering::Relaxed) {
        // SAFETY: `forget_pages` keeps to what dl_iterate_phdr(3) asks of a callback.
        unsafe { libc::dl_iterate_phdr(Some(forget_pages), std::ptr::null_mut()) };
    }
}

/// Lets go of the program's own read-only segments: pages of a file that was only read come back from the page cache when they
/// are used again (MADV_DONTNEED on a private file mapping, madvise(2)). The first object is the program itself.
unsafe extern "C" fn forget_pages(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands in a valid structure with `dlpi_phnum` headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    // SAFETY: plain call.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // What the loader relocated lies in writable segments; those stay.
    let read_only =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in read_only {
        let start = (base + header.p_vaddr as usize) & !(page - 1);
        let end = (base + header.p_vaddr as usize + header.p_memsz as usize) & !(page - 1);
        if end > start {
            // Pages come back in steps of 64 KiB then, not of 2 MiB where the page cache holds those.
            for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTNEED] {
                // SAFETY: the range is mapped from the program's file, read-only and never written: dropping its pages loses
                // nothing.
                unsafe { libc::madvise(start as *mut libc::c_void, end - start, advice) };
            }
        }
    }
    // One object is enough.
    1
}

/// From now on this thread makes way for others (nice(2), which Linux keeps for each thread).
pub fn make_way() {
    let _ = rustix::process::nice(10);
}

/// Few arenas: one loop does nearly all of the work.
pub fn few_arenas() {
    // SAFETY: plain call, before any other thread exists.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}
