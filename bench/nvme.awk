# Tables and JSON of bench/nvme.sh, from the lines of its passes without checksums, then those of its turns.
function median(list, n, i, j, t, v) {
	n = split(list, v, " ")
	if (n == 0)
		return "-"
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) {
			t = v[j]; v[j] = v[j - 1]; v[j - 1] = t
		}
	return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
function least(list, n, i, v, m) {
	n = split(list, v, " ")
	m = n ? v[1] : "-"
	for (i = 2; i <= n; i++) if (v[i] + 0 < m + 0) m = v[i]
	return m
}
function add(list, x) { return x == "-" ? list : list " " x }
function over(a, b) { return a == "-" || b == "-" || b + 0 <= 0 ? "-" : a / b }
function number(x, form) { return x == "-" ? "null" : sprintf(form, x) }
function cell(x, form, scale) { return x == "-" ? "-" : sprintf(form, x / scale) }
function member(name, x, form) { return sprintf("\"%s\": %s", name, number(x, form)) }
function text(x) { return x == "" ? "null" : "\"" x "\"" }
function put(s) { printf "%s", s > json }

FNR == NR { plain[$1 " " $2 " " $3 " " $4 " " $5] = $7; next }
{
	key = $1 " " $2 " " $3 " " $4 " " $5
	if (!(key in known)) { known[key] = 1; keys[++count] = key }
	rate[key] = add(rate[key], $6); cpu[key] = add(cpu[key], $7)
	frate[key] = add(frate[key], $8); fcpu[key] = add(fcpu[key], $9)
	prate[key] = add(prate[key], $10); pcpu[key] = add(pcpu[key], $11)
	fratio[key] = add(fratio[key], over($6, $8))
	pratio[key] = add(pratio[key], over($6, $10))
}
function row(key, k, f, p, c) {
	split(key, k, " ")
	f = median(fratio[key]); p = median(pratio[key])
	c = key in plain ? plain[key] : "-"
	modes[k[1]] = add(modes[k[1]], f); all = add(all, f); peers = add(peers, p)
	c_plain = add(c_plain, over(c, median(fcpu[key])))
	c_whole = add(c_whole, over(median(cpu[key]), median(fcpu[key])))
	c_peer = add(c_peer, over(median(cpu[key]), median(pcpu[key])))
	printf "%-6s %-8s %6d %5d %4d %7s %7s %9s %6s %7s %7s %7s %7s %7s\n", k[1], k[2], k[3] / 1024, k[4], k[5], \
		cell(median(rate[key]), "%.2f", 1e9), cell(median(frate[key]), "%.2f", 1e9), \
		cell(median(prate[key]), "%.2f", 1e9), cell(f, "%.2f", 1), cell(p, "%.2f", 1), \
		cell(median(cpu[key]), "%.3f", 1), cell(c, "%.3f", 1), cell(median(fcpu[key]), "%.3f", 1), \
		cell(median(pcpu[key]), "%.3f", 1)
	put((rows++ ? "," : "") "\n  {\"mode\": \"" k[1] "\", \"engine\": \"" k[2] "\", \"request_bytes\": " k[3] \
		", \"depth\": " k[4] ", \"directories\": " k[5] ", " \
		member("bytes_per_s", median(rate[key]), "%.0f") ", " member("fio_bytes_per_s", median(frate[key]), "%.0f") ", " \
		member("deepspeed_bytes_per_s", median(prate[key]), "%.0f") ",\n   " \
		member("ratio_fio", f, "%.4f") ", " member("ratio_deepspeed", p, "%.4f") ", " \
		member("cpu_s_per_gb", median(cpu[key]), "%.4f") ", " member("cpu_s_per_gb_without_checksums", c, "%.4f") ", " \
		member("fio_cpu_s_per_gb", median(fcpu[key]), "%.4f") ", " \
		member("deepspeed_cpu_s_per_gb", median(pcpu[key]), "%.4f") "}")
}
END {
	form = "%-6s %-8s %6s %5s %4s %7s %7s %9s %6s %7s %7s %7s %7s %7s\n"
	printf form, "", "", "", "", "", "GB/s", "", "", "ratio", "ratio", "CPU s/GB", "", "", ""
	printf form, "mode", "engine", "KiB", "depth", "dirs", "ours", "fio", "DeepSpeed", "fio", "DeepSp.", "ours", "no sums", \
		"fio", "DeepSp."
	put("{\"fio\": " text(fio) ", \"deepspeed\": " text(peer) ",\n \"cells\": [")
	for (m = 1; m <= split("read write mixed", names, " "); m++)
		for (i = 1; i <= count; i++)
			if (index(keys[i], names[m] " ") == 1)
				row(keys[i])
	put("],\n " member("ratio_fio_read", median(modes["read"]), "%.4f") ", " \
		member("ratio_fio_write", median(modes["write"]), "%.4f") ", " \
		member("ratio_fio_mixed", median(modes["mixed"]), "%.4f") ", " member("ratio_fio_min", least(all), "%.4f") ",\n " \
		member("ratio_deepspeed", median(peers), "%.4f") ", " member("ratio_deepspeed_min", least(peers), "%.4f") ",\n " \
		member("cpu_ratio_fio", median(c_plain), "%.4f") ", " \
		member("cpu_ratio_fio_with_checksums", median(c_whole), "%.4f") ", " \
		member("cpu_ratio_deepspeed_with_checksums", median(c_peer), "%.4f") ",\n \"unequal\": ")
	got = 0
	while (seen && (getline line < unequal) > 0) { put((got++ ? "\n  " : "") line) }
	put((got ? "" : "null") "}\n")
	printf "ratio to fio: read %s, write %s, mixed %s; least of all cells %s\n", cell(median(modes["read"]), "%.2f", 1), \
		cell(median(modes["write"]), "%.2f", 1), cell(median(modes["mixed"]), "%.2f", 1), cell(least(all), "%.2f", 1)
	printf "ratio to DeepSpeed (%s): median %s, least %s\n", peer, cell(median(peers), "%.2f", 1), cell(least(peers), "%.2f", 1)
	printf "CPU per byte over fio: %s without checksums, %s with\n", cell(median(c_plain), "%.2f", 1), \
		cell(median(c_whole), "%.2f", 1)
}
