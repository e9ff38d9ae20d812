// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a datagram becomes a data segment.
 */

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
	if (unlikely(v->padding)) {
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
	if (unlikely(part < 0))
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
	/*
	 * A sum that was formed from this memory need not be verified where that goes no further
	 * (veth), as none is of plain UDP. To a device CHECKSUM_UNNECESSARY means what
	 * CHECKSUM_NONE does (linux/skbuff.h).
	 */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
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
	if (unlikely(v->padding)) {
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
