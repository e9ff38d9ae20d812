// SPDX-License-Identifier: GPL-2.0-only
/*
 * How the checksum of an outgoing skb was left, how that is finished, and how an skb
 * becomes a control segment.
 */

/* An older kernel's csum_diff takes no more than this at once. */
#define CSUM_PIECE 512

/* How the kernel left the checksum of an outgoing skb. */
struct offload {
	u8 partial; /* the transport checksum is still to be filled in */
	u8 foreign; /* and it is not the one of this UDP header: the hop's to finish */
};

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

/* IPv4 options or IPv6 extension headers stand where finish_offload leaves garbage. */
static __always_inline int options_move(struct __sk_buff *skb, const struct packet *p, u8 *buffer, int store)
{
	u64 length = p->l4 - ip_base(p);

	if (likely(!length))
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
