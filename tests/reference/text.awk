# Text for the reference run: sentences of words that a few syllables make, chosen by a generator of
# Lehmer's (16807, 2^31 - 1), whose products are exact in doubles: the same bytes from every awk.
# Variables: seed, words.
function next_below(bound) {
	x = x * 16807 % 2147483647
	return int(x / 64) % bound
}
function word(    n, w) {
	# The square makes some syllables common and others rare, as in a language.
	for (n = 1 + next_below(3); n > 0; n--)
		w = w syllable[int(next_below(24) * next_below(24) / 24)]
	return w
}
BEGIN {
	split("ba den ki lo mur ta sel ni vo ran pe shi gul ma tor eth wen ly dar fo qu iz nor ux", list, " ")
	for (i = 1; i <= 24; i++)
		syllable[i - 1] = list[i]
	x = seed
	for (i = 0; i < words; i++) {
		w = word()
		if (starts)
			w = toupper(substr(w, 1, 1)) substr(w, 2)
		starts = next_below(9) == 0
		end = starts ? (next_below(4) ? ". " : ".\n") : next_below(12) ? " " : ", "
		printf "%s%s", w, end
	}
	print ""
}
