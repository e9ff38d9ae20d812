// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a data segment becomes the datagram that it carries: the inverse of datagram.c, for XDP
 * and for TC ingress.
 */

/* Length and protocol of the IP header follow the UDP header. */
static __always_inline int ip_restore(frame *f, const struct packet *p, u32 udp_len)
{
	if (p->v6) {
		__be16 length = bpf_htons(p->l4 - p->l3 - sizeof(struct ipv6hdr) + udp_len);
		u8 udp = IPPROTO_UDP;

		return frame_store(f, p->l3 + 4, &length, sizeof(length)) ||
		       frame_store(f, p->protocol_at, &udp, sizeof(udp));
	} else {
		void *data = (void *)(long)f->data, *end = (void *)(long)f->data_end;
		struct iphdr *ip = ip_header(data, p);
		__be16 total = bpf_htons(p->l4 - p->l3 + udp_len);
		u64 sum;

		/* its own checksum keeps the sum of the header what it was */
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

/*
 * What restore_datagram() does, for most segments: neither options nor padding, at least 12
 * bytes of datagram, and all of it in one piece (else NOT_SUPPORTED, and nothing is changed).
 */
static __always_inline int restore_in_place(frame *f, const struct packet *p,
					    const struct tcp_header *tcp)
{
	void *data = (void *)(long)f->data, *end = (void *)(long)f->data_end;
	u32 moved[3], udp_len = p->l4_len - TCP_HEADER + UDP_HEADER;
	u64 at = p->l4, from = p->l4 + p->l4_len - sizeof(moved), sum, removed, moved_sum;
	__be16 length = bpf_htons(udp_len);
	u32 *words, *tail;
	u16 check;

	barrier_var(at);
	at &= 0x1ff;
	barrier_var(from);
	from &= 0x7fff;
	words = data + at;
	tail = data + from;
	if ((void *)(words + 5) > end || (void *)(tail + 3) > end)
		return NOT_SUPPORTED;
	moved[0] = tail[0];
	moved[1] = tail[1];
	moved[2] = tail[2];
	moved_sum = csum_words(moved, 3);
	removed = csum_words((u32 *)tcp + 1, 4);
	/* addresses and ports are in both sums */
	sum = (u16)~tcp->check + csum_without(csum_pseudo(removed, IPPROTO_TCP, p->l4_len) +
					      (u16)~tcp->check);
	if (p->l4_len & 1)
		sum += csum_without(csum_swapped(moved_sum)) + moved_sum;
	check = ~csum_fold64(csum_pseudo(sum, IPPROTO_UDP, udp_len) + length);
	if (!check)
		check = 0xffff;
	((__be16 *)words)[2] = length;
	((u16 *)words)[3] = check;
	words[2] = moved[0];
	words[3] = moved[1];
	words[4] = moved[2];
	frame_csum_add(f, moved_sum + length + check + csum_without(removed));
	return 0;
}

/* The data segment becomes the datagram that it carries. A wrong checksum stays wrong. */
static __always_inline int restore_datagram(frame *f, struct packet *p,
					    const struct tcp_header *tcp, u32 padding,
					    const struct config *cfg, struct receive_buffer *b)
{
	u32 header = (tcp->offset >> 4) * 4;
	u32 options = header - TCP_HEADER;
	u32 n = p->l4_len - header - padding;
	u32 rotated = TCP_HEADER - UDP_HEADER + padding;
	u32 moved = n < rotated ? n : rotated;
	u32 udp_len = UDP_HEADER + n;
	struct udphdr udp = {.source = p->source, .dest = p->dest};
	u64 length, sum, moved_sum;

	if (likely(!options && !padding && n >= rotated) && !restore_in_place(f, p, tcp))
		goto trim;
	/* the sum of the datagram is what the TCP checksum says, less all that is dropped */
	sum = (u16)~tcp->check;
	sum += csum_without(csum_pseudo(p->addresses, IPPROTO_TCP, p->l4_len) +
			    csum_words((u32 *)tcp, sizeof(*tcp) / 4) + (u16)~tcp->check);
	if (options + padding) {
		length = options + padding;
		__builtin_memset(b->head, 0, 64);
		barrier_var(length);
		if (length > 56 || frame_load(f, p->l4 + TCP_HEADER, b->head,
						      ((length - 1) & 0x3f) + 1))
			return -1;
		sum += csum_without(csum_words((u32 *)b->head, 16));
	}
	__builtin_memset(b->moved, 0, sizeof(b->moved));
	length = moved;
	barrier_var(length);
	length = ((length - 1) & 0x1f) + 1;
	if (moved && frame_load(f, p->l4 + header + padding + n - moved, b->moved + UDP_HEADER, length))
		return -1;
	moved_sum = csum_words((u32 *)(b->moved + UDP_HEADER), 8);
	if ((padding + n - moved) & 1)
		sum += csum_without(csum_swapped(moved_sum)) + moved_sum;
	if (options && frame_skip_options(f, p, options, b))
		return -1;

	udp.len = bpf_htons(udp_len);
	sum += csum_pseudo(p->addresses, IPPROTO_UDP, udp_len) +
	       (u64)udp.len + udp.source + udp.dest;
	udp.check = ~csum_fold64(sum);
	if (!udp.check)
		udp.check = 0xffff;
	__builtin_memcpy(b->moved, &udp, sizeof(udp));
	length = UDP_HEADER + moved;
	barrier_var(length);
	if (length < UDP_HEADER || length > sizeof(b->moved) || frame_store(f, p->l4, b->moved, length))
		return -1;
trim:
	/* Of a frame in several buffers the tail is left: the IP layer trims it. */
	if (!(cfg->flags & CONFIG_KEEP_TAIL) && frame_size(f) >= p->l4 + udp_len &&
	    frame_trim(f, p->l4 + udp_len))
		return -1;
	return ip_restore(f, p, udp_len);
}
