use super::*;
use crate::checksum::Sum;

const A: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

fn v4(proto: IpProto, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_ipv4(&mut out, &Ipv4Header { src: A, dst: B, proto, ttl: 64, id: 7 }, payload);
    out
}

fn v6(proto: IpProto, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (src, dst) = (A.to_ipv6_mapped(), B.to_ipv6_mapped());
    write_ipv6(&mut out, &Ipv6Header { src, dst, proto, hop_limit: 64 }, payload);
    out
}

fn udp(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&src.to_be_bytes());
    out.extend_from_slice(&dst.to_be_bytes());
    out.extend_from_slice(&(8 + data.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(data);
    out
}

fn tcp(flags: TcpFlags) -> Vec<u8> {
    let mut out = vec![0x1f, 0x90, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags.0, 0xff, 0xff, 0, 0, 0, 0];
    out.extend_from_slice(b"data");
    out
}

#[test]
fn a_udp_packet_is_read_in_both_families() {
    for packet in [v4(IpProto::UDP, &udp(1000, 53, b"hi")), v6(IpProto::UDP, &udp(1000, 53, b"hi"))] {
        let view = IpView::parse(&packet).unwrap();
        assert_eq!(view.proto(), IpProto::UDP);
        assert_eq!(view.ports(), (1000, 53));
        assert_eq!(view.udp().unwrap().payload(), Some(&b"hi"[..]));
        assert!(view.header_checksum_holds());
        assert_eq!(addresses(&packet), Some((view.src(), view.dst())));
    }
}

#[test]
fn trailing_bytes_are_left_out() {
    let mut packet = v4(IpProto::UDP, &udp(1, 2, b"x"));
    packet.extend_from_slice(&[9; 20]);
    assert_eq!(IpView::parse(&packet).unwrap().packet().len(), 29);
}

#[test]
fn a_syn_alone_opens() {
    let opening = v4(IpProto::TCP, &tcp(TcpFlags::SYN));
    assert!(IpView::parse(&opening).unwrap().tcp().unwrap().is_opening());
    let answer = v4(IpProto::TCP, &tcp(TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0)));
    let view = IpView::parse(&answer).unwrap();
    assert!(!view.tcp().unwrap().is_opening());
    assert_eq!(view.tcp().unwrap().payload(), Some(&b"data"[..]));
    assert_eq!((view.tcp().unwrap().seq(), view.tcp().unwrap().ack()), (1, 2));
}

#[test]
fn options_move_the_transport_header() {
    let mut packet = v4(IpProto::UDP, &udp(5, 6, b""));
    packet.splice(20..20, [1, 1, 1, 1]);
    packet[0] = 0x46;
    packet[3] += 4;
    assert_eq!(IpView::parse(&packet).unwrap().ports(), (5, 6));
}

#[test]
fn lengths_that_lie_are_refused() {
    let good = v4(IpProto::UDP, &udp(5, 6, b""));
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        IpView::parse(&packet).map(|_| ()).unwrap_err()
    };
    assert_eq!(IpView::parse(&[]).unwrap_err(), IpError::Empty);
    assert_eq!(IpView::parse(&good[..19]).unwrap_err(), IpError::TooShort);
    assert_eq!(with(0, 0x44), IpError::HeaderLength);
    assert_eq!(with(0, 0x4f), IpError::HeaderLength);
    assert_eq!(with(3, 19), IpError::TotalLength);
    assert_eq!(with(3, 29), IpError::TotalLength);
    assert_eq!(with(3, 27), IpError::TransportTruncated);
    assert_eq!(with(0, 0x75), IpError::Version { got: 7 });
}

#[test]
fn fragments_that_overlap_the_header_are_refused() {
    let at_blocks = |blocks: u16, more: bool| {
        let mut packet = v4(IpProto::TCP, &tcp(TcpFlags::ACK));
        let field = blocks | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        IpView::parse(&packet).map(|view| view.fragment())
    };
    assert_eq!(at_blocks(0, true), Ok(Fragment::First { id: 7 }));
    assert_eq!(at_blocks(1, false), Err(IpError::FragmentOverlap));
    assert_eq!(at_blocks(9, true), Err(IpError::FragmentOverlap));
    assert_eq!(at_blocks(10, true), Ok(Fragment::Later { id: 7, offset: 80 }));
}

#[test]
fn a_later_fragment_has_no_ports() {
    let mut packet = v4(IpProto::UDP, &udp(5, 6, b"payload"));
    packet[7] = 10;
    let view = IpView::parse(&packet).unwrap();
    assert_eq!(view.ports(), (0, 0));
    assert!(matches!(view.transport(), Transport::Later(_)));
}

#[test]
fn the_extension_chain_is_followed_up_to_its_limit() {
    let chained = |count: usize| {
        let mut payload = Vec::new();
        for index in 0..count {
            payload.push(if index + 1 == count { IpProto::UDP.0 } else { IpProto::DESTINATION });
            payload.extend_from_slice(&[0; 7]);
        }
        payload.extend_from_slice(&udp(5, 6, b""));
        v6(if count == 0 { IpProto::UDP } else { IpProto(IpProto::DESTINATION) }, &payload)
    };
    for count in 0..=EXTENSION_HEADERS_MAX {
        assert_eq!(IpView::parse(&chained(count)).unwrap().ports(), (5, 6), "{count} headers");
    }
    assert_eq!(IpView::parse(&chained(EXTENSION_HEADERS_MAX + 1)).unwrap_err(), IpError::ExtensionChain);
}

#[test]
fn ipv6_fragments_are_told_apart() {
    let fragment = |field: u16| {
        let mut payload = vec![IpProto::UDP.0, 0];
        payload.extend_from_slice(&field.to_be_bytes());
        payload.extend_from_slice(&[0, 0, 0, 9]);
        payload.extend_from_slice(&udp(5, 6, b""));
        v6(IpProto(IpProto::FRAGMENT), &payload)
    };
    let first = fragment(1);
    assert_eq!(IpView::parse(&first).unwrap().fragment(), Fragment::First { id: 9 });
    assert_eq!(IpView::parse(&first).unwrap().ports(), (5, 6));
    let later = fragment(80 | 1);
    assert_eq!(IpView::parse(&later).unwrap().fragment(), Fragment::Later { id: 9, offset: 80 });
    assert_eq!(IpView::parse(&later).unwrap().proto(), IpProto::UDP);
    assert_eq!(IpView::parse(&fragment(8)).unwrap_err(), IpError::FragmentOverlap);
}

#[test]
fn an_icmp_error_names_the_flow_it_quotes() {
    let quoted = v4(IpProto::UDP, &udp(1234, 53, b"lost"));
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&quoted[..28]);
    let packet = v4(IpProto::ICMP, &message);
    let icmp = IpView::parse(&packet).unwrap().icmp().unwrap();
    assert!(icmp.is_error());
    let flow = icmp.quoted().unwrap();
    assert_eq!((flow.src_port, flow.dst_port, flow.proto), (1234, 53, IpProto::UDP));
    assert_eq!(flow.src, IpAddr::from(A));
}

#[test]
fn rewriting_keeps_all_checksums_right() {
    arbtest::arbtest(|u| {
        let data: Vec<u8> = u.arbitrary()?;
        let data = &data[..data.len().min(1000)];
        let v4_form: bool = u.arbitrary()?;
        let tcp_form: bool = u.arbitrary()?;
        let (proto, body) = if tcp_form {
            (IpProto::TCP, [&tcp(TcpFlags::ACK)[..], data].concat())
        } else {
            (IpProto::UDP, udp(7, 8, data))
        };
        let mut packet = if v4_form { v4(proto, &body) } else { v6(proto, &body) };
        set_transport_checksum(&mut packet).unwrap();
        let (src, dst): (IpAddr, IpAddr) = if v4_form {
            (
                Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?).into(),
                Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?).into(),
            )
        } else {
            (
                Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?).into(),
                Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?).into(),
            )
        };
        rewrite_source(&mut packet, src).unwrap();
        rewrite_destination(&mut packet, dst).unwrap();
        let view = IpView::parse(&packet).unwrap();
        assert_eq!((view.src(), view.dst()), (src, dst));
        assert!(view.header_checksum_holds());
        let sum = Sum::ZERO.pseudo(src, dst, proto.0, view.payload().len() as u32).bytes(view.payload());
        assert_eq!(sum.finish(), 0);
        Ok(())
    });
}

#[test]
fn arbitrary_bytes_never_panic() {
    arbtest::arbtest(|u| {
        let mut bytes: Vec<u8> = u.arbitrary()?;
        if let (Some(first), true) = (bytes.first_mut(), u.arbitrary()?) {
            *first = *u.choose(&[0x45, 0x46, 0x60])?;
        }
        if let Ok(view) = IpView::parse(&bytes) {
            assert!(view.transport_at() + view.payload().len() == view.packet().len());
            let _ = (
                view.tcp().and_then(|t| t.payload().map(<[u8]>::len)),
                view.udp().and_then(|t| t.payload().map(<[u8]>::len)),
            );
            let _ = view.icmp().and_then(|icmp| icmp.quoted());
            let _ = set_transport_checksum(&mut bytes);
            let _ = rewrite_source(&mut bytes, IpAddr::from(A));
        }
        Ok(())
    });
}
