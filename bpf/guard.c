// SPDX-License-Identifier: GPL-2.0-only
/*
 * TC egress, behind the disguise: UDP of a filtered flow that comes this far was not disguised,
 * since nothing is attached that would do so. It is dropped, so that nobody sees it.
 */
int mimic_guard(struct __sk_buff *skb)
{
	void *data, *end;
	struct packet p = {};
	struct flow_key flow = {};

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (end - data < 128 && skb->len > end - data)
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (parse_packet(data, end, 0, IPPROTO_UDP, &p))
		return TC_ACT_UNSPEC;
	flow_of_sent(&flow, &p);
	if (!find_rule(&flow, p.v6))
		return TC_ACT_UNSPEC;
	count(DROP_PLAIN);
	return TC_ACT_SHOT;
}
