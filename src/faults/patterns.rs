//! What error texts mean. The first row that a line matches is what it says; rows above are the more telling ones.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use crate::base::{Category, Severity, limits};

/// Names of errno(3), as C, Python, Node and Go write them; `os error N` is Rust's way.
const BUILT_IN: &[(Category, &str)] = &[
    (
        Category::Oom,
        r"\bMemoryError\b|heap out of memory|OutOfMemoryError|runtime: out of memory|memory allocation of \d+ bytes failed|std::bad_alloc|Cannot allocate memory|cannot allocate memory|\bENOMEM\b|os error 12\b|ERROR:  out of memory",
    ),
    (Category::Resource, IN_USE),
    (
        Category::Filesystem,
        r"\bENOSPC\b|[Nn]o space left on device|os error 28\b|\bEDQUOT\b|[Dd]isk quota exceeded",
    ),
    (Category::Resource, r"\bEMFILE\b|\bENFILE\b|[Tt]oo many open files|os error 24\b"),
    (
        Category::Resource,
        r"can't start new thread|unable to create (new )?native thread|failed to spawn thread|\bEAGAIN\b.*(fork|spawn|clone)|(fork|spawn|clone).*(\bEAGAIN\b|[Rr]esource temporarily unavailable)",
    ),
    (
        Category::Database,
        r"\bpsycopg\w*\.|\basyncpg\.|sqlalchemy\.exc\.|\bsqlite3\.\w*Error|\bSQLITE_[A-Z]+\b|database is locked|database disk image is malformed|\bSQLSTATE\b|\bPSQLException\b|\bSQL\w*Exception\b|\bORA-\d{5}\b|\bMongo\w*Error\b|\bpymongo\.errors\b|\bredis\.exceptions\b|\bRedis\w*Error\b|\bSequelize\w*Error\b|\bPrismaClient\w*Error\b|\bMySQL\w*|\bpymysql\.|deadlock detected|too many clients already|password authentication failed|(database|role|relation) .* does not exist",
    ),
    (
        Category::Permission,
        r"\bEACCES\b|\bEPERM\b|[Pp]ermission denied|\bPermissionError\b|[Oo]peration not permitted|AccessDeniedException|os error (13|1)\b",
    ),
    (
        Category::Network,
        r"\bENOTFOUND\b|\bEAI_[A-Z]+\b|\bgetaddrinfo\b|\bgaierror\b|[Nn]ame or service not known|[Tt]emporary failure in name resolution|UnknownHostException|no such host|failed to lookup address",
    ),
    (
        Category::Network,
        r"\bECONNREFUSED\b|[Cc]onnection refused|\bConnectionRefused\w*|\bECONNRESET\b|[Cc]onnection reset|\bEPIPE\b|[Bb]roken pipe|\bEHOSTUNREACH\b|[Nn]o route to host|\bENETUNREACH\b|[Nn]etwork is unreachable|os error (32|101|104|111|113)\b|certificate verify failed|\bSSL\w*(Error|Exception)\b|x509: ",
    ),
    (
        Category::Timeout,
        r"\bETIMEDOUT\b|\bESOCKETTIMEDOUT\b|\bTimeoutError\b|TimeoutException|\b[Tt]imed out\b|deadline exceeded|[Dd]eadlineExceeded|\bno answer within\b|did not say that it is ready in time|\bran out of time\b|os error 110\b",
    ),
    (
        Category::Config,
        r"\bModuleNotFoundError\b|\bImportError\b|Cannot find (module|package)|ERR_MODULE_NOT_FOUND|MODULE_NOT_FOUND|ClassNotFoundException|NoClassDefFoundError|Could not find or load main class|Unable to access jarfile|can't open file '|error while loading shared libraries|\bos(\.py)?\W{1,2}, line \d+, in __getitem__|environment variable|\bNotPresent\b|\bValidationError\b|unrecognized arguments?|unrecognized configuration parameter|[Uu]nknown (option|flag|argument)|unexpected argument|flag provided but not defined|[Ii]nvalid configuration|[Cc]onfiguration error|[Mm]issing required|[Mm]issing option|arguments are required|arguments were not provided|\bImproperlyConfigured\b|unknown directive|configuration file .* contains errors|command not found|\bTOMLDecodeError\b|yaml\.(scanner|parser)\.",
    ),
    (
        Category::Filesystem,
        r"\bENOENT\b|[Nn]o such file or directory|\bFileNotFoundError\b|NoSuchFileException|FileNotFoundException|\bEROFS\b|[Rr]ead-only file system|\bEIO\b|[Ii]nput/output error|\bEISDIR\b|\bENOTDIR\b|os error (2|5|20|21|30)\b",
    ),
    (
        Category::Api,
        r"\bHTTPError\b|\bHttpError\b|\bAxiosError\b|[Ss]tatus[_ ]?(code)?:? ?[45]\d\d\b|\banswered [45]\d\d\b|\bHTTP/?[\d.]* [45]\d\d\b|Too Many Requests|[Rr]ate limit",
    ),
    // PostgreSQL's own log, when it says nothing more telling.
    (Category::Database, r"\b(FATAL|PANIC):  "),
];

/// A port that somebody else holds.
const IN_USE: &str = r"\bEADDRINUSE\b|[Aa]ddress (already )?in use|os error 98\b|BindException|[Pp]ort \d+ (is|was) (already )?in use|Connection in use: ";

static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    let rows = BUILT_IN.iter().map(|(_, pattern)| *pattern);
    RegexSetBuilder::new(rows).unicode(false).build().expect("the built-in patterns are valid")
});

static PORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)(?:[Pp]ort[ =:]+|[\]\w*.]:|\s:|:::|, )(\d{2,5})\b").expect("a valid pattern")
});

/// The time that a line may begin with is no address.
static CLOCK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?-u)\b\d\d:\d\d:\d\d\b").expect("a valid pattern"));

/// A port that is called one.
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?-u)\b[Pp]ort['"]?[ =:]+(\d{2,5})\b"#).expect("a valid pattern"));

/// A System's own patterns, tried before the built-in ones.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    own: Vec<Own>,
}

#[derive(Clone, Debug)]
struct Own {
    pattern: Regex,
    category: Category,
    severity: Option<Severity>,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub category: Category,
    pub severity: Option<Severity>,
    /// Lower is more telling.
    pub rank: usize,
}

impl Said {
    /// Any other line says more.
    pub fn is_weak(&self) -> bool {
        self.rank + 1 >= BUILT_IN.len()
    }
}

impl Patterns {
    /// From `System.spec.errors.patterns`; one that is no pattern was found with the manifest and is left out.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a str, Category, Option<Severity>)>) -> Self {
        let own = rows.into_iter().take(limits::ERROR_PATTERNS).filter_map(|(text, category, severity)| {
            Some(Own { pattern: Regex::new(text).ok()?, category, severity })
        });
        Self { own: own.collect() }
    }

    /// What one line says, if it says anything.
    pub fn line(&self, line: &str) -> Option<Said> {
        let line = line.as_bytes();
        if let Some(rank) = self.own.iter().position(|own| own.pattern.is_match(line)) {
            let Own { category, severity, .. } = self.own[rank];
            return Some(Said { category, severity, rank });
        }
        let row = SET.matches(line).iter().next()?;
        Some(Said { category: BUILT_IN[row].0, severity: None, rank: self.own.len() + row })
    }
}

/// Whether a line says that a port or address is held by another process.
pub fn says_address_in_use(line: &str) -> bool {
    // Row 1 of the table.
    SET.matches(line.as_bytes()).matched(1)
}

/// The port that a line names, if it names one.
pub fn port_in(line: &str) -> Option<u16> {
    let line = CLOCK.replace_all(line.as_bytes(), &b""[..]);
    last_number(&PORT, &line)
}

/// The port that a line which is about something else calls one.
pub fn port_named(line: &str) -> Option<u16> {
    last_number(&NAMED, line.as_bytes())
}

fn last_number(pattern: &Regex, line: &[u8]) -> Option<u16> {
    let found = pattern.captures_iter(line).last()?;
    std::str::from_utf8(found.get(1)?.as_bytes()).ok()?.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_addresses_in_use_is_where_it_is_looked_for() {
        assert_eq!(BUILT_IN[1].1, IN_USE);
        assert!(says_address_in_use("Error: listen EADDRINUSE: address already in use :::8000"));
        assert!(says_address_in_use("Web server failed to start. Port 8080 was already in use."));
        assert!(!says_address_in_use("EACCES"));
    }

    #[test]
    fn a_port_is_read_from_the_ways_in_which_programs_name_it() {
        for (line, port) in [
            ("Error: listen EADDRINUSE: address already in use :::8000", Some(8000)),
            ("Error: listen EADDRINUSE: address already in use 127.0.0.1:3000", Some(3000)),
            ("2026/01/01 10:00:05 listen tcp :8080: bind: address already in use", Some(8080)),
            ("2026/01/01 10:00:05 listen unix /run/a.sock: bind: address already in use", None),
            (
                "2026/01/01 10:00:05 [emerg] 7#7: bind() to [::]:80 failed (98: Address already in use)",
                Some(80),
            ),
            ("[2026-01-01 10:00:05 +0000] [7] [ERROR] Connection in use: ('0.0.0.0', 8000)", Some(8000)),
            ("Port 5000 is in use by another program.", Some(5000)),
            ("listen tcp 0.0.0.0:8080: bind: address already in use", Some(8080)),
            ("could not bind IPv4 address \"127.0.0.1\": Address already in use, port 5432", Some(5432)),
            (
                "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
                Some(8000),
            ),
            ("OSError: [Errno 98] Address already in use", None),
        ] {
            assert_eq!(port_in(line), port, "{line}");
        }
    }

    #[test]
    fn a_systems_own_patterns_come_first() {
        let patterns =
            Patterns::new([("quota", Category::Api, Some(Severity::Warning)), ("(", Category::Crash, None)]);
        let said = patterns.line("ENOSPC: quota").unwrap();
        assert_eq!((said.category, said.severity), (Category::Api, Some(Severity::Warning)));
        assert_eq!(patterns.line("ENOSPC").unwrap().category, Category::Filesystem);
        assert_eq!(patterns.line("all is well"), None);
    }
}
