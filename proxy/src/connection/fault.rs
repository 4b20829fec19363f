//! Faults of a connection that was just accepted: before its handshake, and before anything of it is passed on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use crate::exchange::inject::place;
use crate::fault::leased::{Action, Subject};
use crate::fault::{Plan, Stage};
use crate::model::Listener;
use crate::observe::Reason;
use crate::observe::format::Record;
use crate::observe::metrics::GaugeGuard;
use crate::policy::standing::Facts;
use crate::transport::Transport;
use crate::worker::Worker;

/// How long a client whose handshake fails may take to say hello, and to leave.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes of a client that are read and thrown away, so that it gets to read its alert.
const DISCARDED_BYTES: usize = 16 * 1024;

/// What faults do to a connection before anything is said on it.
#[derive(Debug)]
pub enum Early {
    /// Nothing.
    GoesOn,
    /// One has ended it.
    Ended,
    /// The client is shown an expired certificate.
    Expired(Expired),
}

/// A fault that is at work while hands are shaken.
#[derive(Debug)]
pub struct Expired {
    /// Its name.
    pub names: [Arc<str>; 1],
    _at_work: GaugeGuard,
    _places: Box<Plan>,
}

/// Lets a connection meet its faults. `tls` is whether a handshake would follow.
pub async fn meet(
    transport: &mut Transport,
    (facts, tls): (&Facts, bool),
    listener: &Listener,
    worker: &Worker,
) -> Early {
    let Some(faults) = worker.faults().filter(|_| !facts.spared) else { return Early::GoesOn };
    let subject = Subject {
        listener: &facts.listener,
        destination: facts.destination,
        peer: None,
        head: None,
        route: "",
        cluster: "",
        endpoint: None,
        tls,
    };
    let held_back = |fault: &_| worker.count_held_back(fault);
    let stage = (place(listener.direction), Stage::Accepted);
    let Some(plan) = faults.choose(stage, &subject, faults.next_connection(), held_back) else {
        return Early::GoesOn;
    };
    let Some(fault) = &plan.end else { return Early::GoesOn };
    let at_work = worker.count_fault(&fault.name, fault.action.effect());
    if fault.action == Action::ExpiredCertificate {
        return Early::Expired(Expired {
            names: [Arc::clone(&fault.name)],
            _at_work: at_work,
            _places: plan,
        });
    }
    worker.reasons.count(&worker.metrics, Reason::FaultInjected);
    log(transport, (facts, &plan), listener, worker);
    if let Action::TlsFailure(alert) = fault.action {
        // Whether the client hears of it is its own affair.
        let _ = timeout(FAREWELL, fail_handshake(transport, alert)).await;
    } else {
        transport.reset_on_close();
    }
    Early::Ended
}

/// Says a fatal alert (RFC 8446 sections 5.1 and 6) to a client that has said hello.
async fn fail_handshake(transport: &mut Transport, alert: u8) -> std::io::Result<()> {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let mut discarded = [0_u8; 1024];
    discard(transport, &mut discarded).await?;
    transport.write_all(&[ALERT, 3, 3, 0, 2, FATAL, alert]).await?;
    poll_fn(|cx| Pin::new(&mut *transport).poll_shutdown(cx)).await?;
    let mut total = 0;
    while total < DISCARDED_BYTES {
        match discard(transport, &mut discarded).await? {
            0 => break,
            count => total += count,
        }
    }
    Ok(())
}

async fn discard(transport: &mut Transport, into: &mut [u8]) -> std::io::Result<usize> {
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(into);
        let read = Pin::new(&mut *transport).poll_read(cx, &mut buffer);
        read.map_ok(|()| buffer.filled().len())
    })
    .await
}

fn log(transport: &Transport, (facts, plan): (&Facts, &Plan), listener: &Listener, worker: &Worker) {
    let names: Vec<_> = plan.end.iter().map(|fault| fault.name.clone()).collect();
    let record = Record {
        start: SystemTime::now(),
        flags: Reason::FaultInjected.flag(),
        reason: Some(Reason::FaultInjected.code()),
        faults: &names,
        local: Some(transport.local()),
        remote: Some(transport.peer()),
        server_name: facts.server_name.as_deref(),
        ..Record::default()
    };
    for log in &listener.access_logs {
        worker.logger.write(log, &record);
    }
}
