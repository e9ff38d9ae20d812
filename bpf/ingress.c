// SPDX-License-Identifier: GPL-2.0-only
/*
 * XDP of the interface: TCP of a filtered flow becomes the UDP that it was, and what
 * has to be answered is answered with the frame that asked. TC ingress sends such
 * answers: XDP_TX would lose them on veth whose peer has no XDP program.
 */

/* In front of the frame, from XDP to TC ingress; nothing on the wire can set it. */
struct reply_note {
	u32 magic;
	struct control control; /* NOTE_DELIVER_AND_REPLY: the segment to send */
	u8 options[SYN_OPTIONS]; /* NOTE_APPEND_AND_REPLY: what the frame has to end with */
};
#define NOTE_REPLY 0x6d6d0001
#define NOTE_DELIVER_AND_REPLY 0x6d6d0002
#define NOTE_APPEND_AND_REPLY 0x6d6d0003

#define RST_INTERVAL_NS (10 * NS_PER_MS)
#define CONTROL_CHECKED_MAX 2048

static __always_inline int xdp_drop(u32 why)
{
	count(why);
	return XDP_DROP;
}

/* A control segment changes state, so its checksum is verified here; data is left to UDP. */
static __always_inline int control_is_intact(struct xdp_md *ctx, const struct packet *p,
					     struct receive_buffer *b)
{
	u64 length = p->l4_len, end = p->l4_len;
	s64 sum = csum_pseudo(p->addresses, IPPROTO_TCP, p->l4_len);
	u64 at = 0;

	if (length > CONTROL_CHECKED_MAX)
		return 0;
	barrier_var(length);
	if (bpf_xdp_load_bytes(ctx, p->l4, b->control, ((length - 1) & 0x7ff) + 1))
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

/* The frame becomes the answer, back along the way it came. */
static __always_inline int reply(struct xdp_md *ctx, const struct packet *p, const struct control *c,
				 const struct config *cfg, u8 wscale, const u8 *l2)
{
	u32 length = control_length(c);
	u32 base = p->l3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	int change = (int)(base + length) - (int)(ctx->data_end - ctx->data);
	struct control_bytes bytes;
	struct reply_note *note;
	u64 size = length;
	void *data;

	control_encode(&bytes, c, p->dest, p->source, p->addresses, mss_of(cfg->mtu, p->v6), wscale);
	if (change > 0 && bpf_xdp_adjust_tail(ctx, change)) {
		/* veth may leave fewer than 12 bytes behind an ACK or RST that becomes a SYN */
		size = TCP_HEADER;
		change -= SYN_OPTIONS;
	}
	if (change < 0 && bpf_xdp_adjust_tail(ctx, change))
		return xdp_drop(DROP_RX_REWRITE);
#if L2_LEN
	{
		u64 l2_size = p->l3;

		barrier_var(l2_size);
		l2_size = ((l2_size - 1) & 0x1f) + 1;
		if (l2_size > L2_MAX || bpf_xdp_store_bytes(ctx, 0, (void *)l2, l2_size))
			return xdp_drop(DROP_RX_REWRITE);
	}
#endif
	if (p->v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_TCP, .hop_limit = 64};

		ip.payload_len = bpf_htons(length);
		__builtin_memcpy(&ip.saddr, p->dst, 16);
		__builtin_memcpy(&ip.daddr, p->src, 16);
		if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)))
			return xdp_drop(DROP_RX_REWRITE);
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};

		ip.tot_len = bpf_htons(sizeof(ip) + length);
		ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
		ip.saddr = p->dst[3];
		ip.daddr = p->src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)))
			return xdp_drop(DROP_RX_REWRITE);
	}
	barrier_var(size);
	size &= 63;
	if (size < TCP_HEADER || size > sizeof(bytes) || bpf_xdp_store_bytes(ctx, base, &bytes, size))
		return xdp_drop(DROP_RX_REWRITE);
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*note)))
		return size == length ? XDP_TX : xdp_drop(DROP_RX_REWRITE); /* a driver without metadata */
	data = (void *)(long)ctx->data;
	note = (void *)(long)ctx->data_meta;
	if ((void *)(note + 1) > data)
		return xdp_drop(DROP_RX_REWRITE);
	__builtin_memset(note, 0, sizeof(*note));
	note->magic = NOTE_REPLY;
	if (size != length) {
		note->magic = NOTE_APPEND_AND_REPLY;
		__builtin_memcpy(note->options, bytes.rest, SYN_OPTIONS);
	}
	return XDP_PASS;
}

/* Without a note the datagram still arrives; the next segment restores the window. */
static __always_inline void note_reply(struct xdp_md *ctx, const struct control *c)
{
	struct reply_note *note;
	void *data;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*note)))
		return;
	data = (void *)(long)ctx->data;
	note = (void *)(long)ctx->data_meta;
	if ((void *)(note + 1) > data)
		return;
	note->magic = NOTE_DELIVER_AND_REPLY;
	note->control = *c;
}

/* TCP options stand between the header and the data: the headers move up to them. */
static __always_inline int options_skip(struct xdp_md *ctx, struct packet *p, u32 options,
					struct receive_buffer *b)
{
	u64 length = p->l4 + UDP_HEADER;

	barrier_var(length);
	if (length > HEADERS_MAX)
		return -1;
	if (bpf_xdp_load_bytes(ctx, 0, b->head, ((length - 1) & 0x1ff) + 1 > HEADERS_MAX + 64 ?
			       HEADERS_MAX : ((length - 1) & 0x1ff) + 1))
		return -1;
	if (bpf_xdp_adjust_head(ctx, options))
		return -1;
	length = p->l4 + UDP_HEADER;
	barrier_var(length);
	if (length > HEADERS_MAX)
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, b->head, ((length - 1) & 0x1ff) + 1 > HEADERS_MAX + 64 ?
				   HEADERS_MAX : ((length - 1) & 0x1ff) + 1);
}

/* The data segment becomes the datagram that it carries. A wrong checksum stays wrong. */
static __always_inline int restore_datagram(struct xdp_md *ctx, struct packet *p,
					    const struct tcp_header *tcp, u32 padding,
					    struct receive_buffer *b)
{
	u32 header = (tcp->offset >> 4) * 4;
	u32 options = header - TCP_HEADER;
	u32 n = p->l4_len - header - padding;
	u32 rotated = TCP_HEADER - UDP_HEADER + padding;
	u32 moved = n < rotated ? n : rotated;
	u32 udp_len = UDP_HEADER + n, frame;
	struct udphdr udp = {.source = p->source, .dest = p->dest};
	void *data, *end;
	u64 length, sum, moved_sum;

	/* the sum of the datagram is what the TCP checksum says, less all that is dropped */
	sum = (u16)~tcp->check;
	sum += csum_without(csum_pseudo(p->addresses, IPPROTO_TCP, p->l4_len) +
			    csum_words((u32 *)tcp, sizeof(*tcp) / 4) + (u16)~tcp->check);
	if (options + padding) {
		length = options + padding;
		__builtin_memset(b->head, 0, 64);
		barrier_var(length);
		if (length > 56 || bpf_xdp_load_bytes(ctx, p->l4 + TCP_HEADER, b->head,
						      ((length - 1) & 0x3f) + 1))
			return -1;
		sum += csum_without(csum_words((u32 *)b->head, 16));
	}
	__builtin_memset(b->moved, 0, sizeof(b->moved));
	length = moved;
	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (moved && bpf_xdp_load_bytes(ctx, p->l4 + header + padding + n - moved, b->moved, length))
		return -1;
	moved_sum = csum_words((u32 *)b->moved, 8);
	if ((padding + n - moved) & 1)
		sum += csum_without(csum_swapped(moved_sum)) + moved_sum;
	if (options && options_skip(ctx, p, options, b))
		return -1;

	udp.len = bpf_htons(udp_len);
	sum += csum_pseudo(p->addresses, IPPROTO_UDP, udp_len) +
	       (u64)udp.len + udp.source + udp.dest;
	udp.check = ~csum_fold64(sum);
	if (!udp.check)
		udp.check = 0xffff;
	if (bpf_xdp_store_bytes(ctx, p->l4, &udp, sizeof(udp)))
		return -1;
	if (moved && bpf_xdp_store_bytes(ctx, p->l4 + UDP_HEADER, b->moved, length))
		return -1;
	/* Of a frame in several buffers the tail is left: the IP layer trims it. */
	frame = ctx->data_end - ctx->data;
	if (frame >= p->l4 + udp_len && frame != p->l4 + udp_len &&
	    bpf_xdp_adjust_tail(ctx, (int)(p->l4 + udp_len) - (int)frame))
		return -1;

	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (p->v6) {
		struct ipv6hdr *ip = ip_header(data, p);
		u8 protocol = IPPROTO_UDP;

		if ((void *)(ip + 1) > end)
			return -1;
		ip->payload_len = bpf_htons(p->l4 - p->l3 - sizeof(*ip) + udp_len);
		return bpf_xdp_store_bytes(ctx, p->protocol_at, &protocol, 1);
	} else {
		struct iphdr *ip = ip_header(data, p);
		__be16 total = bpf_htons(p->l4 - p->l3 + udp_len);

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (u16)~ip->check;
		sum += (u16)~ip->tot_len + total;
		sum += (u16)~bpf_htons(IPPROTO_TCP) + bpf_htons(IPPROTO_UDP);
		ip->tot_len = total;
		ip->protocol = IPPROTO_UDP;
		ip->check = ~csum_fold64(sum);
		return 0;
	}
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
static __always_inline int segment_read(struct xdp_md *ctx, const struct packet *p,
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
	if ((kind || (s->length < 2 && !(s->flags & TCP_PSH))) && !control_is_intact(ctx, p, b))
		return DROP_RX_CHECKSUM;
	if (kind == TCP_SYN && header > TCP_HEADER) {
		/* control_is_intact() has just loaded the segment */
		__builtin_memcpy(b->head, b->control + TCP_HEADER, 40);
		if (parse_syn_options(b->head, header - TCP_HEADER, s))
			return DROP_RX_OPTIONS;
	}
	return 0;
}

static __always_inline void link_header_turn(struct xdp_md *ctx, const struct packet *p, u8 *l2)
{
#if L2_LEN
	u64 length = p->l3;
	u8 mac[6];

	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (length > L2_MAX || bpf_xdp_load_bytes(ctx, 0, l2, length))
		return;
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
#endif
}

static __always_inline int rst_allowed(struct config *cfg, u64 now)
{
	/* Two CPUs may both find it allowed: that is one RST more in 10 ms. */
	if (now - cfg->rst_at_ns < RST_INTERVAL_NS)
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
	else
		count(COUNT_TX_ACK);
}

static __always_inline int apply_receive(struct xdp_md *ctx, struct config *cfg,
					 const struct flow_key *flow, struct packet *p,
					 const struct tcp_header *tcp, const struct segment *s,
					 struct receive_verdict *v, const u8 *l2,
					 struct receive_buffer *b, u64 now)
{
	if (v->reason)
		event_state(&b->event, flow, now, v->generation, v->state, v->role, v->reason);
	if (v->answered_syn) {
		struct half_open hint = {
			.at_ns = now,
			.isn = s->cookie,
			.peer_isn = s->seq,
			.peer_mss = s->mss,
			.peer_wscale = s->wscale,
		};

		half_opens.update((struct flow_key *)flow, &hint);
	}
	count(v->counter);
	if (v->control.flags && v->limited && !rst_allowed(cfg, now))
		v->control.flags = 0;
	if (v->deliver) {
		if (restore_datagram(ctx, p, tcp, v->padding, b))
			return xdp_drop(DROP_RX_REWRITE);
		if (v->control.flags) {
			count(COUNT_TX_WINDOW_UPDATE);
			note_reply(ctx, &v->control);
		}
		return XDP_PASS;
	}
	if (!v->control.flags)
		return XDP_DROP;
	count_control(&v->control);
	return reply(ctx, p, &v->control, cfg, v->syn_wscale, l2);
}

int mimic_ingress(struct xdp_md *ctx)
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
	u8 state, opens, acks;

	b = receive_buffers.lookup(&zero);
	if (!cfg || !b)
		return XDP_PASS;
	p = &b->packet;
	v = &b->verdict;
	s = &b->in;
	tcp = &b->tcp;
	__builtin_memset(p, 0, sizeof(*p));
	__builtin_memset(v, 0, sizeof(*v));
	__builtin_memset(s, 0, sizeof(*s));
	if (parse_packet((void *)(long)ctx->data, (void *)(long)ctx->data_end, IPPROTO_TCP, p))
		return XDP_PASS;
	flow_of_received(&flow, p);
	c = conns.lookup(&flow);
	number = c ? c->rule : find_rule(&flow, p->v6);
	rule = rule_get(number);
	if (!rule)
		return XDP_PASS;

	/* From here on the segment is ours: the kernel's own TCP never sees it. */
	if (p->fragment)
		return xdp_drop(DROP_RX_FRAGMENT);
	if (p->l4_len < TCP_HEADER || bpf_xdp_load_bytes(ctx, p->l4, tcp, sizeof(*tcp)))
		return xdp_drop(DROP_RX_MALFORMED);
	if (tcp->offset >> 4 < 5 || p->l4_len < (tcp->offset >> 4) * 4 ||
	    ctx->data_end - ctx->data < p->l4 + (tcp->offset >> 4) * 4 ||
	    bpf_xdp_get_buff_len(ctx) < p->l4 + p->l4_len)
		return xdp_drop(DROP_RX_MALFORMED);
	if (p->l4_len > DATAGRAM_MAX + 64)
		return xdp_drop(DROP_RX_TOO_BIG);
	why = segment_read(ctx, p, tcp, s, b);
	if (why)
		return xdp_drop(why);
	s->we_are_higher = key_is_higher(&flow);
	now = bpf_ktime_get_boot_ns();
	random = bpf_get_prandom_u32();
	state = c ? c->state : IDLE;
	wanted = !c || state != ESTABLISHED || now - c->syn_answered_ns < 2 * COOKIE_LIFE_NS;
	opens = (s->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	acks = (s->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_ACK;
	if (opens || (acks && wanted)) {
		u32 epoch = cookie_epoch(now, acks, s->ack - 1);

		s->cookie = cookie_of_epoch(cfg->cookie_key, &flow, epoch, opens ? s->wscale : 0);
		if (acks)
			s->proves = cookie_matches(s->cookie, s->ack - 1, &s->proven_wscale);
		if (s->proves)
			hint = half_opens.lookup(&flow);
	}
	link_header_turn(ctx, p, b->l2);

	if (!c && s->proves) {
		c = conn_make(&flow, number, b->conn_template);
		if (!c)
			count(DROP_RX_MAP_FULL);
	}
	if (c) {
		bpf_spin_lock(&c->lock);
		conn_receive(c, s, v, rule, hint, random, now);
		if (v->reason && (c->role == RESPONDER || !c->l2_len)) {
			c->l2_len = L2_LEN ? p->l3 : 0;
			__builtin_memcpy(c->l2, b->l2, L2_MAX);
		}
		bpf_spin_unlock(&c->lock);
	} else if (opens) {
		v->syn_wscale = wscale_of(rule);
		receive_syn(s, v);
	} else {
		receive_stray(s, v);
	}
	return apply_receive(ctx, cfg, &flow, p, tcp, s, v, b->l2, b, now);
}

/* The datagram goes on as a clone, and the original turns back as this segment. */
static __always_inline int deliver_and_reply(struct __sk_buff *skb, const struct config *cfg,
					     const struct control *c)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct control_bytes bytes;
	struct packet p = {};
	u8 l2[12], mac[6];
	u32 base;

	if (parse_packet(data, end, IPPROTO_UDP, &p))
		return TC_ACT_UNSPEC;
	skb->mark = cfg->deliver_mark;
	if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS)) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	skb->mark = 0;
	base = p.l3 + (p.v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	control_encode(&bytes, c, p.dest, p.source, p.addresses, 0, 0);
	if (bpf_skb_change_tail(skb, base + TCP_HEADER, 0))
		return drop(DROP_REWRITE);
#if L2_LEN
	if (bpf_skb_load_bytes(skb, 0, l2, sizeof(l2)))
		return drop(DROP_REWRITE);
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
	if (bpf_skb_store_bytes(skb, 0, l2, sizeof(l2), 0))
		return drop(DROP_REWRITE);
#endif
	if (p.v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_TCP, .hop_limit = 64};

		ip.payload_len = bpf_htons(TCP_HEADER);
		__builtin_memcpy(&ip.saddr, p.dst, 16);
		__builtin_memcpy(&ip.daddr, p.src, 16);
		if (bpf_skb_store_bytes(skb, p.l3, &ip, sizeof(ip), 0))
			return drop(DROP_REWRITE);
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP};

		ip.tot_len = bpf_htons(sizeof(ip) + TCP_HEADER);
		ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
		ip.saddr = p.dst[3];
		ip.daddr = p.src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (bpf_skb_store_bytes(skb, p.l3, &ip, sizeof(ip), 0))
			return drop(DROP_REWRITE);
	}
	if (bpf_skb_store_bytes(skb, base, &bytes, TCP_HEADER, 0))
		return drop(DROP_REWRITE);
	return bpf_redirect(cfg->ifindex, 0);
}

/* TC ingress. Reads the note before anything could move the frame, and writes by helpers only. */
int mimic_reply(struct __sk_buff *skb)
{
	struct config *cfg = config_get();
	struct reply_note *note = (void *)(long)skb->data_meta;
	void *data = (void *)(long)skb->data;
	u8 options[SYN_OPTIONS];
	u32 length = skb->len;
	struct control c;

	if (!cfg)
		return TC_ACT_UNSPEC;
	if (cfg->deliver_mark && skb->mark == cfg->deliver_mark) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if ((void *)(note + 1) > data)
		return TC_ACT_UNSPEC;
	if (note->magic == NOTE_REPLY)
		return bpf_redirect(cfg->ifindex, 0);
	if (note->magic == NOTE_APPEND_AND_REPLY) {
		__builtin_memcpy(options, note->options, SYN_OPTIONS);
		if (bpf_skb_change_tail(skb, length + SYN_OPTIONS, 0) ||
		    bpf_skb_store_bytes(skb, length, options, SYN_OPTIONS, 0))
			return drop(DROP_REWRITE);
		return bpf_redirect(cfg->ifindex, 0);
	}
	if (note->magic != NOTE_DELIVER_AND_REPLY)
		return TC_ACT_UNSPEC;
	c = note->control;
	return deliver_and_reply(skb, cfg, &c);
}
