// SPDX-License-Identifier: GPL-2.0-only
/*
 * TCP of a filtered flow becomes the UDP that it was, and what has to be answered is
 * answered with the frame that asked. The code is the same for XDP and for TC ingress;
 * xdp.c and tc.c hold the entry points, and what only one of them can do.
 */

#define RST_INTERVAL_NS (10 * NS_PER_MS)
#define CONTROL_CHECKED_MAX 2048

/* A control segment changes state, so its checksum is verified here; data is left to UDP. */
static __always_inline int control_is_intact(frame *f, const struct packet *p,
					     struct receive_buffer *b)
{
	u64 length = p->l4_len, end = p->l4_len;
	s64 sum = csum_pseudo(p->addresses, IPPROTO_TCP, p->l4_len);
	u64 at = 0;

	if (length > CONTROL_CHECKED_MAX)
		return 0;
	barrier_var(length);
	if (frame_load(f, p->l4, b->control, ((length - 1) & 0x7ff) + 1))
		return 0;
	barrier_var(end);
	end &= 0xfff;
	if (end > CONTROL_CHECKED_MAX)
		return 0;
	__builtin_memset(b->control + end, 0, 64);
	sum = csum_fold64(sum);
	for (int i = 0; i < CONTROL_CHECKED_MAX / 64; i++) {
		if (at >= p->l4_len)
			break;
		sum = bpf_csum_diff(0, 0, (void *)(b->control + (at & 0x7c0)), 64, sum);
		at += 64;
	}
	return csum_fold64(sum) == 0xffff;
}

/* By a helper only where the header is not in the first piece of the frame. */
static __always_inline int tcp_header_load(frame *f, const struct packet *p, struct tcp_header *tcp)
{
	void *data = (void *)(long)f->data, *end = (void *)(long)f->data_end;
	struct tcp_header *from;
	u64 at = p->l4;

	barrier_var(at);
	from = data + (at & 0x1ff);
	if ((void *)(from + 1) > end)
		return frame_load(f, p->l4, tcp, sizeof(*tcp));
	*tcp = *from;
	return 0;
}

/* The frame becomes the answer, back along the way it came. */
static __always_inline int reply(frame *f, const struct packet *p, const struct control *c,
				 const struct config *cfg, u8 wscale, const u8 *l2)
{
	u32 length = control_length(c);
	u32 base = p->l3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct control_bytes bytes;
	u64 size = length;

	control_encode(&bytes, c, p->dest, p->source, p->addresses, mss_of(cfg->mtu, p->v6), wscale);
	/* native XDP on veth may have no tail for the options of a SYN: they are appended later */
	if (frame_resize(f, base + length)) {
		if (length != TCP_HEADER + SYN_OPTIONS || frame_resize(f, base + TCP_HEADER))
			return receive_dropped(DROP_RX_REWRITE);
		size = TCP_HEADER;
	}
#if L2_LEN
	{
		u64 l2_size = p->l3;

		barrier_var(l2_size);
		l2_size = ((l2_size - 1) & 0x1f) + 1;
		if (l2_size > L2_MAX || frame_store(f, 0, (void *)l2, l2_size))
			return receive_dropped(DROP_RX_REWRITE);
	}
#endif
	if (p->v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_TCP, .hop_limit = 64};

		ip.payload_len = bpf_htons(length);
		__builtin_memcpy(&ip.saddr, p->dst, 16);
		__builtin_memcpy(&ip.daddr, p->src, 16);
		if (frame_store(f, p->l3, &ip, sizeof(ip)))
			return receive_dropped(DROP_RX_REWRITE);
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};

		ip.tot_len = bpf_htons(sizeof(ip) + length);
		ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
		ip.saddr = p->dst[3];
		ip.daddr = p->src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (frame_store(f, p->l3, &ip, sizeof(ip)))
			return receive_dropped(DROP_RX_REWRITE);
	}
	barrier_var(size);
	size &= 63;
	if (size < TCP_HEADER || size > sizeof(bytes) || frame_store(f, base, &bytes, size))
		return receive_dropped(DROP_RX_REWRITE);
	return frame_send_back(f, cfg, bytes.rest, size != length, base + length);
}

static __always_inline int key_is_higher(const struct flow_key *flow)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u32 ours = bpf_ntohl(flow->local[i]), theirs = bpf_ntohl(flow->remote[i]);

		if (ours != theirs)
			return ours > theirs;
	}
	return bpf_ntohs(flow->local_port) > bpf_ntohs(flow->remote_port);
}

/* What the state machine wants to know of the segment beyond its header. */
static __always_inline int segment_read(frame *f, const struct packet *p,
					const struct tcp_header *tcp, struct segment *s,
					struct receive_buffer *b)
{
	u32 header = (tcp->offset >> 4) * 4;
	u8 kind;

	s->seq = bpf_ntohl(tcp->seq);
	s->ack = bpf_ntohl(tcp->ack);
	s->window = bpf_ntohs(tcp->window);
	s->flags = tcp->flags;
	s->length = p->l4_len - header;
	kind = s->flags & (TCP_SYN | TCP_RST | TCP_FIN);
	if ((kind & (kind - 1)) && !(kind & TCP_RST))
		return DROP_RX_FLAGS;
	if (unlikely(kind || (s->length < 2 && !(s->flags & TCP_PSH))) &&
	    !control_is_intact(f, p, b))
		return DROP_RX_CHECKSUM;
	if (kind == TCP_SYN && header > TCP_HEADER) {
		/* control_is_intact() has just loaded the segment */
		__builtin_memcpy(b->head, b->control + TCP_HEADER, 40);
		if (parse_syn_options(b->head, header - TCP_HEADER, s))
			return DROP_RX_OPTIONS;
	}
	return 0;
}

static __always_inline void link_header_turn(frame *f, const struct packet *p, u8 *l2)
{
#if L2_LEN
	u64 length = p->l3;
	u8 mac[6];

	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (length > L2_MAX || frame_load(f, 0, l2, length))
		return;
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
#endif
}

static __always_inline int rst_allowed(struct config *cfg, u64 now)
{
	/* Two CPUs may both find it allowed: that is one RST more in 10 ms. */
	if (elapsed_ns(now, cfg->rst_at_ns) < RST_INTERVAL_NS)
		return 0;
	cfg->rst_at_ns = now;
	return 1;
}

static __always_inline void count_control(const struct control *c)
{
	if (c->flags & TCP_RST)
		count(COUNT_TX_RST);
	else if (c->flags == TCP_SYN)
		count(COUNT_TX_SYN);
	else if (c->flags & TCP_SYN)
		count(COUNT_TX_SYN_ACK);
	else if (c->payload)
		count(COUNT_TX_PROBE);
	else
		count(COUNT_TX_ACK);
}

static __always_inline int apply_receive(frame *f, struct config *cfg,
					 const struct flow_key *flow, struct packet *p,
					 const struct tcp_header *tcp, const struct segment *s,
					 struct receive_verdict *v, const u8 *l2,
					 struct receive_buffer *b, u64 now)
{
	if (unlikely(v->answered_syn)) {
		struct half_open hint = {
			.at_ns = now,
			.isn = s->cookie,
			.peer_isn = s->seq,
			.peer_mss = s->mss,
			.peer_wscale = s->wscale,
			.ack = v->control.ack,
		};
		struct conn *c;

		half_opens.update((struct flow_key *)flow, &hint);
		/* Either egress on another CPU sees the hint, or its connection is seen here. */
		c = conns.lookup((struct flow_key *)flow);
		if (c) {
			bpf_spin_lock(&c->lock);
			conn_crossed(c, s, v, now);
			bpf_spin_unlock(&c->lock);
		}
	}
	if (unlikely(v->reason))
		event_state(&b->event, flow, now, v->generation, v->state, v->role, v->reason);
	count(v->counter);
	if (unlikely(v->control.flags) && v->limited && !rst_allowed(cfg, now))
		v->control.flags = 0;
	if (unlikely(v->control.flags))
		trace(cfg, flow, EVENT_SENT, v->control.flags, v->control.seq, v->control.ack,
		      v->control.payload);
	if (likely(v->deliver)) {
		if (restore_datagram(f, p, tcp, v->padding, cfg, b))
			return receive_dropped(DROP_RX_REWRITE);
		if (unlikely(v->control.flags)) {
			count(COUNT_TX_WINDOW_UPDATE);
			return frame_deliver_and_reply(f, cfg, &v->control);
		}
		return frame_deliver(f, cfg);
	}
	if (!v->control.flags)
		return FRAME_DROP;
	count_control(&v->control);
	return reply(f, p, &v->control, cfg, v->syn_wscale, l2);
}

/* Plain UDP: to a strict filter it comes from who does not disguise it, or who forges it. */
static __always_inline int receive_plain(frame *f, const struct config *cfg, struct packet *p,
					 struct flow_key *flow)
{
	struct rule *rule;
	__be16 ports[2];

	/* a later fragment tells no ports, and what is in the hop is on its way out */
	if (p->protocol != IPPROTO_UDP || p->fragment == LATER_FRAGMENT ||
	    frame_has_link(f, cfg->ifindex) || frame_load(f, p->l4, ports, sizeof(ports)))
		return FRAME_PASS;
	p->source = ports[0];
	p->dest = ports[1];
	flow_of_received(flow, p);
	rule = rule_get(find_rule(flow, p->v6));
	if (!rule || !(rule->flags & RULE_STRICT))
		return FRAME_PASS;
	return receive_dropped(DROP_RX_PLAIN);
}

/* What is no TCP: an error about a segment of ours, or what a strict filter does not want. */
static __always_inline int receive_other(frame *f, const struct config *cfg, struct packet *p,
					 struct flow_key *flow, u8 *buffer)
{
	if (p->protocol == (p->v6 ? IPPROTO_ICMPV6_ : IPPROTO_ICMP)) {
		if (!p->fragment && !frame_has_link(f, cfg->ifindex))
			receive_path_error(f, p, flow, buffer);
		return FRAME_PASS;
	}
	return cfg->flags & CONFIG_STRICT ? receive_plain(f, cfg, p, flow) : FRAME_PASS;
}

static __always_inline int receive(frame *f)
{
	struct config *cfg = config_get();
	struct packet *p;
	struct flow_key flow = {};
	struct tcp_header *tcp;
	struct segment *s;
	struct receive_verdict *v;
	struct half_open *hint = 0;
	struct receive_buffer *b;
	struct rule *rule;
	struct conn *c;
	u32 number, random, why;
	u64 wanted, now;
	int zero = 0;
	u8 state, opens, acks, plain;
	u32 tag;

	b = receive_buffers.lookup(&zero);
	if (!cfg || !b)
		return FRAME_PASS;
	p = &b->packet;
	v = &b->verdict;
	s = &b->in;
	tcp = &b->tcp;
	__builtin_memset(p, 0, sizeof(*p));
	__builtin_memset(v, 0, sizeof(*v));
	__builtin_memset(s, 0, sizeof(*s));
	if (parse_packet((void *)(long)f->data, (void *)(long)f->data_end,
			 frame_has_link(f, cfg->ifindex), IPPROTO_TCP, p))
		return receive_other(f, cfg, p, &flow, b->head);
	flow_of_received(&flow, p);
	c = conns.lookup(&flow);
	number = c ? c->rule : find_rule(&flow, p->v6);
	rule = rule_get(number);
	if (!rule)
		return FRAME_PASS;

	/* From here on the segment is ours: the kernel's own TCP never sees it. */
	if (unlikely(p->fragment))
		return receive_dropped(DROP_RX_FRAGMENT);
	if (unlikely(frame_is_merged(f)))
		return frame_split(f, cfg, p);
	if (p->l4_len < TCP_HEADER || tcp_header_load(f, p, tcp))
		return receive_dropped(DROP_RX_MALFORMED);
	if (tcp->offset >> 4 < 5 || p->l4_len < (tcp->offset >> 4) * 4 ||
	    frame_size(f) < p->l4 + (tcp->offset >> 4) * 4 ||
	    frame_total(f) < p->l4 + p->l4_len)
		return receive_dropped(DROP_RX_MALFORMED);
	if (p->l4_len > DATAGRAM_MAX + 64)
		return receive_dropped(DROP_RX_TOO_BIG);
	why = segment_read(f, p, tcp, s, b);
	if (unlikely(why))
		return receive_dropped(why);
	trace(cfg, &flow, 0, s->flags, s->seq, s->ack, s->length);
	state = c ? c->state : IDLE;
	plain = state == ESTABLISHED && (s->flags & ~TCP_ACK) == TCP_PSH;
	now = plain ? clock_tick_ns(cfg) : bpf_ktime_get_boot_ns();
	random = (u32)now * 0x9e3779b1U;
	if (unlikely(!plain)) {
		/* data of an established connection needs none of this */
		random = bpf_get_prandom_u32();
		s->we_are_higher = key_is_higher(&flow);
		link_header_turn(f, p, b->l2);
	}
	wanted = !c || state != ESTABLISHED || elapsed_ns(now, c->syn_answered_ns) < 2 * COOKIE_LIFE_NS;
	opens = (s->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	acks = (s->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_ACK;
	if (unlikely(opens || (acks && wanted))) {
		u32 epoch = cookie_epoch(bpf_ktime_get_boot_ns(), acks, s->ack - 1);

		s->cookie = cookie_of_epoch(cfg->cookie_key, &flow, epoch, opens ? s->wscale : 0);
		if (acks)
			s->proves = cookie_matches(s->cookie, s->ack - 1, &s->proven_wscale);
		if (s->proves)
			hint = half_opens.lookup(&flow);
	}
	tag = frame_tag(f);
	if (unlikely(!c && s->proves)) {
		c = conn_make(&flow, number, b->conn_template);
		if (!c)
			count(DROP_RX_MAP_FULL);
	}
	if (likely(c)) {
		bpf_spin_lock(&c->lock);
		conn_receive(c, s, v, rule, hint, random, now);
		if (v->reason && !plain && (c->role == RESPONDER || !c->l2_len))
			link_header_keep(c, p, b->l2, tag);
		bpf_spin_unlock(&c->lock);
	} else if (opens) {
		v->syn_wscale = wscale_of(rule);
		receive_syn(s, v);
	} else {
		receive_stray(s, v);
	}
	if (unlikely(s->flags & TCP_RST) && v->counter == DROP_RX_NO_CONNECTION) {
		hint = half_opens.lookup(&flow);
		/* the peer knows nothing of the SYN that was answered: do not wait for its ACK */
		if (hint && (!s->seq || s->seq == hint->ack))
			half_opens.delete(&flow);
	}
	return apply_receive(f, cfg, &flow, p, tcp, s, v, b->l2, b, now);
}
