// SPDX-License-Identifier: GPL-2.0-only
/*
 * How an outgoing skb becomes another packet: a data segment, a control segment, or the
 * ICMP error that turns it back.
 */

/* An older kernel's csum_diff takes no more than this at once. */
#define CSUM_PIECE 512

/* How the kernel left the checksum of an outgoing skb. */
struct offload {
	u8 partial; /* the transport checksum is still to be filled in */
	u8 foreign; /* and it is not the one of this UDP header: the hop's to finish */
};

/* Onto the wire, also from the far end of the hop. Other people's filters behind ours see it. */
static __always_inline int transmit(struct __sk_buff *skb, const struct config *cfg)
{
	if (skb->ifindex == cfg->ifindex)
		return TC_ACT_UNSPEC;
	return bpf_redirect(cfg->ifindex, 0);
}

static __always_inline int drop(u32 why)
{
	count(why);
	return TC_ACT_SHOT;
}

/*
 * Gone, and its sender is told that all went well. By a redirection to an interface that nobody
 * has: a tcx link takes TC_ACT_STOLEN for "go on", and TC_ACT_SHOT may reach the sender as ENOBUFS.
 */
#define NOWHERE 0x7fffffff

static __always_inline int take_away(void)
{
	return bpf_redirect(NOWHERE, 0);
}

/* Into the near end of the hop, where a packet without a link header needs one. */
static __always_inline int into_hop(struct __sk_buff *skb, const struct config *cfg,
				    const struct packet *p)
{
#if !L2_LEN
	struct ethhdr eth = {.h_proto = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)};

	if (bpf_skb_change_head(skb, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return drop(DROP_SUPERPACKET);
#endif
	count(COUNT_HOP);
	return bpf_redirect(cfg->hop_ifindex, 0);
}

#ifdef SKB_CAST
/*
 * The kernel's own struct sk_buff, to be read like any memory: bpf_cast_to_kern_ctx(), which
 * the verifier replaces by a move (since 6.2). Called by its number in the kernel's BTF.
 */
#define skb_of_kernel ((u8 *(*)(void *))SKB_CAST)
#define SKB_BASE 0
#else
/*
 * Called by its number: BCC rewrites the name into another helper where it cannot read
 * the kernel's symbols, as under a sandbox.
 */
#define read_kernel ((long (*)(void *, u32, const void *))BPF_FUNC_probe_read_kernel)
#define SKB_BASE SKB_AT
#endif

/* The kernel does not tell: what the hop cannot finish is taken for unfinished. */
static __always_inline void offload_unknown(const struct config *cfg, struct offload *o)
{
	o->partial = 1;
	o->foreign = cfg->hop_ifindex != 0;
}

/* `fields` has room for the part of struct sk_buff that is read at once. */
static __always_inline void offload_read(struct __sk_buff *skb, const struct config *cfg,
					 const struct packet *p, struct offload *o, u8 *fields)
{
	o->foreign = o->partial = 0;
	/* the hop has finished whatever was open */
	if (skb->ifindex != cfg->ifindex)
		return;
#ifdef SKB_IP_SUMMED_AT
#ifdef SKB_CAST
	fields = skb_of_kernel(skb);
#else
	if (read_kernel(fields, SKB_BYTES, (void *)skb + SKB_AT)) {
		offload_unknown(cfg, o);
		return;
	}
#endif
	/* CHECKSUM_PARTIAL is 3 */
	o->partial = (fields[SKB_IP_SUMMED_AT - SKB_BASE] >> SKB_IP_SUMMED_SHIFT & 3) == 3;
	if (o->partial) {
		u64 start = *(u16 *)(fields + SKB_CSUM_START_AT - SKB_BASE);
		u16 offset = *(u16 *)(fields + SKB_CSUM_OFFSET_AT - SKB_BASE);
		u64 head = *(u64 *)(fields + SKB_HEAD_AT - SKB_BASE);
		u64 data = *(u64 *)(fields + SKB_DATA_AT - SKB_BASE);

		o->foreign = head + start != data + p->l4 ||
			     offset != __builtin_offsetof(struct udphdr, check) ||
			     /* finish_offload() refuses a tag that stands in the frame */
			     (L2_LEN && p->l3 != L2_LEN && cfg->hop_ifindex);
	}
#else
	offload_unknown(cfg, o);
#endif
}

/*
 * Kernels before 6.2 look for the place of the checksum before they pull, so that they find
 * out only at the next time that it is gone.
 */
#ifdef SHRINK_TWICE
#define SHRINK_AGAIN_BYTES 2
#else
#define SHRINK_AGAIN_BYTES 0
#endif

static __always_inline int room_shrink(struct __sk_buff *skb, u32 span)
{
	int failed = bpf_skb_adjust_room(skb, -(s32)span, BPF_ADJ_ROOM_NET,
					 BPF_F_ADJ_ROOM_NO_CSUM_RESET);

	if (failed || !SHRINK_AGAIN_BYTES)
		return failed;
	return bpf_skb_adjust_room(skb, -SHRINK_AGAIN_BYTES, BPF_ADJ_ROOM_NET,
				   BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

/*
 * CHECKSUM_PARTIAL becomes CHECKSUM_NONE: pulling the head past csum_start makes the
 * kernel drop the request (since 6.2 and its stable siblings). What lies between the
 * fixed IP header and `base + span` is garbage afterwards; the frame keeps its length.
 */
static __always_inline int finish_offload(struct __sk_buff *skb, u32 span)
{
	if (room_shrink(skb, span))
		return -1;
	return bpf_skb_adjust_room(skb, span + SHRINK_AGAIN_BYTES, BPF_ADJ_ROOM_NET,
				   BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

static __always_inline u32 ip_base(const struct packet *p)
{
	return p->l3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* IPv4 options or IPv6 extension headers stand where finish_offload leaves garbage. */
static __always_inline int options_move(struct __sk_buff *skb, const struct packet *p, u8 *buffer, int store)
{
	u64 length = p->l4 - ip_base(p);

	if (!length)
		return 0;
	barrier_var(length);
	length = ((length - 1) & 0x1ff) + 1;
	if (store)
		return bpf_skb_store_bytes(skb, ip_base(p), buffer, length, 0);
	return bpf_skb_load_bytes(skb, ip_base(p), buffer, length);
}

/* Length and protocol of the IP header follow the new transport header. */
static __always_inline int ip_update(struct __sk_buff *skb, const struct packet *p, u32 l4_len)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u8 tcp = IPPROTO_TCP;

	if (p->v6) {
		struct ipv6hdr *ip = ip_header(data, p);

		if ((void *)(ip + 1) > end)
			return -1;
		ip->payload_len = bpf_htons(p->l4 - ip_base(p) + l4_len);
		return bpf_skb_store_bytes(skb, p->protocol_at, &tcp, 1, 0);
	} else {
		struct iphdr *ip = ip_header(data, p);
		__be16 length = bpf_htons(p->l4 - p->l3 + l4_len);
		u64 sum;

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (u16)~ip->check;
		sum += (u16)~ip->tot_len + length;
		sum += (u16)~bpf_htons(ip->protocol) + bpf_htons(IPPROTO_TCP);
		ip->tot_len = length;
		ip->protocol = IPPROTO_TCP;
		ip->check = ~csum_fold64(sum);
		return 0;
	}
}

/* The skb, whatever it carried, becomes this control segment. */
static __always_inline int become_control(struct __sk_buff *skb, const struct packet *p,
					  const struct offload *o, const struct control *c,
					  const struct config *cfg, u8 wscale, u8 *options)
{
	struct control_bytes bytes;
	u64 length = control_length(c);
	u32 span = p->l4 + 2;

	control_encode(&bytes, c, p->source, p->dest, p->addresses, mss_of(cfg->mtu, p->v6), wscale);
	if (o->partial) {
		if (options_move(skb, p, options, 0) ||
		    bpf_skb_change_tail(skb, ip_base(p) + span + 32, 0) ||
		    finish_offload(skb, span) || options_move(skb, p, options, 1))
			return -1;
	}
	if (options_move(skb, p, options, 0) || skb_resize(skb, p->l4 + length) ||
	    options_move(skb, p, options, 1))
		return -1;
	barrier_var(length);
	length &= 63;
	if (length < TCP_HEADER || length > sizeof(bytes))
		return -1;
	if (bpf_skb_store_bytes(skb, p->l4, &bytes, length, 0))
		return -1;
	return ip_update(skb, p, length);
}

/* The sum of `length` bytes, zeros behind them up to the next word. */
static __always_inline s64 csum_buffer(u8 *buffer, u64 length)
{
	u64 pieces = length / CSUM_PIECE, rest = (length % CSUM_PIECE + 3) & ~3ULL;
	u64 words = (length + 3) & ~3ULL;
	s64 sum = 0;

	barrier_var(words);
	if (words > 16384)
		return -1;
	sum = bpf_csum_diff(0, 0, (void *)buffer, words, 0);
	if (likely(sum >= 0))
		return sum;
	/* kernels before 6.13 refuse what is longer than a piece */
	sum = 0;
	for (u64 i = 0; i < 16384 / CSUM_PIECE; i++) {
		if (i >= pieces)
			break;
		sum = bpf_csum_diff(0, 0, (void *)(buffer + i * CSUM_PIECE), CSUM_PIECE, sum);
	}
	pieces *= CSUM_PIECE;
	barrier_var(pieces);
	pieces &= 0x3e00;
	barrier_var(rest);
	if (rest > CSUM_PIECE)
		return -1;
	return bpf_csum_diff(0, 0, (void *)(buffer + pieces), rest, sum);
}

static __always_inline void tcp_header_of_data(struct tcp_header *tcp, const struct packet *p,
					       const struct send_verdict *v)
{
	tcp->source = p->source;
	tcp->dest = p->dest;
	tcp->seq = bpf_htonl(v->seq);
	tcp->ack = bpf_htonl(v->ack);
	tcp->offset = TCP_HEADER / 4 << 4;
	tcp->flags = TCP_ACK | TCP_PSH;
	tcp->window = bpf_htons(v->window);
	tcp->check = 0;
	tcp->urgent = 0;
}

static __always_inline void random_bytes(u32 *words)
{
	words[0] = bpf_get_prandom_u32();
	words[1] = bpf_get_prandom_u32();
	words[2] = bpf_get_prandom_u32();
	words[3] = bpf_get_prandom_u32();
}

/*
 * The skb becomes `size` bytes long, and its checksum is asked for no more: `span` bytes go
 * behind the fixed IP header, and the tail grows. What stands behind that header is garbage
 * afterwards.
 */
static __always_inline int finish_and_resize(struct __sk_buff *skb, const struct packet *p,
					     u32 span, u32 size, u8 *options)
{
	if (options_move(skb, p, options, 0))
		return -1;
	/* a short one grows first: the kernel leaves no less than the IP header */
	if (skb->len < ip_base(p) + 2 * span) {
		if (bpf_skb_change_tail(skb, size + span + SHRINK_AGAIN_BYTES, 0) ||
		    room_shrink(skb, span))
			return -1;
	} else if (room_shrink(skb, span) || bpf_skb_change_tail(skb, size, 0)) {
		return -1;
	}
	return options_move(skb, p, options, 1);
}

/*
 * The datagram of `n` bytes behind p->l4 becomes a data segment, laid out in b->segment as
 * it will be on the wire: of a datagram whose own checksum tells nothing.
 */
static __always_inline int become_data_whole(struct __sk_buff *skb, const struct packet *p,
					     const struct offload *o, const struct send_verdict *v,
					     u32 n, struct send_buffer *b)
{
	u32 rotated = TCP_HEADER - UDP_HEADER + v->padding;
	u32 total = TCP_HEADER + v->padding + n;
	u64 at = UDP_HEADER + (n < rotated ? rotated : n), end = total, length = UDP_HEADER + n;
	u64 *head = (u64 *)(b->segment + UDP_HEADER), *tail;
	struct tcp_header tcp;
	u64 first[4];
	s64 part;

	/* From byte 12 + padding on, everything is where it belongs. */
	barrier_var(length);
	if (bpf_skb_load_bytes(skb, p->l4, b->segment, helper_length(length)))
		return -1;
	barrier_var(at);
	tail = (u64 *)(b->segment + (at & 0x3fff));
	first[0] = head[0];
	first[1] = head[1];
	tail[0] = first[0];
	tail[1] = first[1];
	if (v->padding) {
		u64 *behind, kept[2];

		first[2] = head[2];
		first[3] = head[3];
		tail[2] = first[2];
		tail[3] = first[3];
		/* 16 random bytes, and again what stood behind the padding */
		at = TCP_HEADER + v->padding;
		barrier_var(at);
		behind = (u64 *)(b->segment + (at & 0x3f));
		kept[0] = behind[0];
		kept[1] = behind[1];
		random_bytes((u32 *)(b->segment + TCP_HEADER));
		behind[0] = kept[0];
		behind[1] = kept[1];
	}
	tcp_header_of_data(&tcp, p, v);
	__builtin_memcpy(b->segment, &tcp, sizeof(tcp));
	barrier_var(end);
	end &= 0x3fff;
	*(b->segment + end) = 0;
	*(b->segment + end + 1) = 0;
	*(b->segment + end + 2) = 0;
	part = csum_buffer(b->segment, total);
	if (part < 0)
		return -1;
	*(u16 *)(b->segment + 16) = ~csum_fold64(csum_pseudo(p->addresses, IPPROTO_TCP, total) + part);

	if (o->partial) {
		if (finish_and_resize(skb, p, p->l4 + 2, p->l4 + total, b->options))
			return -1;
	} else if (options_move(skb, p, b->options, 0) || skb_resize(skb, p->l4 + total) ||
		   options_move(skb, p, b->options, 1)) {
		return -1;
	}
	length = total;
	barrier_var(length);
	if (bpf_skb_store_bytes(skb, p->l4, b->segment, helper_length(length), 0))
		return -1;
	return ip_update(skb, p, total);
}

/*
 * The same for a datagram with a checksum: what is not moved is not read. NOT_SUPPORTED:
 * nothing has changed, see skb_resize().
 */
static __always_inline int become_data_by_parts(struct __sk_buff *skb, const struct packet *p,
						const struct send_verdict *v, u32 n,
						struct send_buffer *b)
{
	__be16 udp_length = p->word[0];
	u32 rotated = TCP_HEADER - UDP_HEADER + v->padding;
	u32 moved = n < rotated ? n : rotated;
	u32 total = TCP_HEADER + v->padding + n;
	struct tcp_header tcp;
	u64 length = moved, sum, moved_sum;
	int failed;

	__builtin_memset(b->head, 0, sizeof(b->head));
	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (moved && bpf_skb_load_bytes(skb, p->l4 + UDP_HEADER, b->head, length))
		return -1;
	moved_sum = csum_words((u32 *)b->head, 8);
	/* the datagram's own sum is what its checksum says, less pseudo-header and header */
	sum = csum_pseudo(p->addresses, IPPROTO_TCP, total) + (u16)~p->word[1];
	sum += csum_without(csum_pseudo(p->addresses, IPPROTO_UDP, bpf_ntohs(udp_length)) +
			    (u64)udp_length + p->source + p->dest);
	/* the part that moved stands at an odd place if the datagram has an odd length;
	 * a short one as a whole stands behind the padding */
	if ((n < rotated ? v->padding : n) & 1)
		sum += csum_without(moved_sum) + csum_swapped(moved_sum);
	if (v->padding) {
		u64 at = TCP_HEADER + v->padding;

		random_bytes((u32 *)(b->segment + TCP_HEADER));
		barrier_var(at);
		at &= 0x3f;
		*(b->segment + at) = 0;
		*(b->segment + at + 1) = 0;
		*(b->segment + at + 2) = 0;
		sum += bpf_csum_diff(0, 0, (void *)(b->segment + TCP_HEADER), (v->padding + 3) & 0x1c, 0);
	}
	tcp_header_of_data(&tcp, p, v);
	sum += csum_words((u32 *)&tcp, sizeof(tcp) / 4);
	tcp.check = ~csum_fold64(sum);
	__builtin_memcpy(b->segment, &tcp, sizeof(tcp));

	failed = bpf_skb_change_tail(skb, p->l4 + total, 0);
	if (failed)
		return failed;
	if (moved && bpf_skb_store_bytes(skb, p->l4 + total - moved, b->head, length, 0))
		return -1;
	length = TCP_HEADER + v->padding;
	barrier_var(length);
	if (length > 64 || bpf_skb_store_bytes(skb, p->l4, b->segment, ((length - 1) & 0x3f) + 1, 0))
		return -1;
	return ip_update(skb, p, total);
}

static __always_inline int become_data(struct __sk_buff *skb, const struct packet *p,
				       const struct offload *o, const struct send_verdict *v, u32 n,
				       struct send_buffer *b)
{
	if (!o->partial && p->word[1]) {
		int done = become_data_by_parts(skb, p, v, n, b);

		if (done != NOT_SUPPORTED)
			return done;
	}
	return become_data_whole(skb, p, o, v, n, b);
}

/*
 * The datagram turns round as an ICMP error from its destination, so that the sender's
 * socket, or the host that we forward for, learns what fits.
 */
static __always_inline int too_big(struct __sk_buff *skb, const struct packet *p, struct offload *o,
				   const struct config *cfg, u32 padding, struct send_buffer *b)
{
	u32 quote = p->l4 - p->l3 + UDP_HEADER, base = ip_base(p), span = p->l4 + 2;
	u32 total = ICMP_HEADER + quote;
	u8 l2[12], mac[6];
	u64 length = quote, end = total;
	s64 part;
	u64 sum;

	count(DROP_TOO_BIG);
	barrier_var(length);
	if (length < 8 || length > HEADERS_MAX)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, p->l3, b->segment + ICMP_HEADER, length) ||
	    bpf_skb_load_bytes(skb, 0, l2, sizeof(l2)))
		return TC_ACT_SHOT;
	/* without "don't fragment" there is nobody who could use the answer */
	if (!p->v6 && !(b->segment[ICMP_HEADER + 6] & 0x40))
		return TC_ACT_SHOT;
	icmp_header(b->segment, p, icmp_mtu(p, cfg->mtu, padding));
	barrier_var(end);
	end &= 0x1ff;
	*(b->segment + end) = 0;
	*(b->segment + end + 1) = 0;
	*(b->segment + end + 2) = 0;
	part = csum_buffer(b->segment, total);
	if (part < 0)
		return TC_ACT_SHOT;
	sum = part;
	if (p->v6)
		sum += csum_pseudo(p->addresses, IPPROTO_ICMPV6_, total);
	*(u16 *)(b->segment + 2) = ~csum_fold64(sum);

	if (o->partial &&
	    (bpf_skb_change_tail(skb, base + span + 32, 0) || finish_offload(skb, span)))
		return TC_ACT_SHOT;
	if (skb_resize(skb, base + total))
		return TC_ACT_SHOT;
	length = total;
	barrier_var(length);
	if (length < 8 || length > HEADERS_MAX + ICMP_HEADER)
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, base, b->segment, length, 0))
		return TC_ACT_SHOT;
	if (p->v6) {
		struct ipv6hdr ip = {.version = 6, .nexthdr = IPPROTO_ICMPV6_, .hop_limit = 64};

		ip.payload_len = bpf_htons(total);
		__builtin_memcpy(&ip.saddr, p->dst, 16);
		__builtin_memcpy(&ip.daddr, p->src, 16);
		if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0))
			return TC_ACT_SHOT;
	} else {
		struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_ICMP};

		ip.tot_len = bpf_htons(sizeof(ip) + total);
		ip.saddr = p->dst[3];
		ip.daddr = p->src[3];
		ip.check = ~csum_fold64(csum_words((u32 *)&ip, sizeof(ip) / 4));
		if (bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0))
			return TC_ACT_SHOT;
	}
#if L2_LEN
	__builtin_memcpy(mac, l2, 6);
	__builtin_memcpy(l2, l2 + 6, 6);
	__builtin_memcpy(l2 + 6, mac, 6);
	if (bpf_skb_store_bytes(skb, 0, l2, sizeof(l2), 0))
		return TC_ACT_SHOT;
#endif
	return bpf_redirect(cfg->ifindex, BPF_F_INGRESS);
}
