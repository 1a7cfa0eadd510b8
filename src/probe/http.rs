//! The two kinds of HTTP client.

use std::sync::Once;

/// For what stays on this machine (probes, the control API). No proxy, and no root certificates: they would be read from
/// disk and kept in memory for nothing. An `https` URL finds nobody that it trusts.
pub fn local() -> reqwest::ClientBuilder {
    choose_provider();
    reqwest::Client::builder().no_proxy().tls_certs_only([])
}

/// For what leaves it (webhooks): believes the root certificates of the machine, or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` of the daemon's environment. Building it reads them: off the loop.
pub fn remote() -> reqwest::ClientBuilder {
    choose_provider();
    reqwest::Client::builder().no_proxy()
}

fn choose_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when somebody chose before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
