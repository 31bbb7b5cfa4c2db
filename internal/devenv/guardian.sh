# Cleans up after the process that started it. It reads "add SIGNAL:PID" and "del
# SIGNAL:PID" from its standard input; when that ends, the owner has closed the
# environment or died: end the processes left, and remove the directory, $1.
trap '' HUP INT QUIT TERM PIPE
dir=$1
list=
while read -r op entry; do
	case $op in
	add) list="$list $entry" ;;
	del)
		rest=
		for e in $list; do
			[ "$e" = "$entry" ] || rest="$rest $e"
		done
		list=$rest
		;;
	esac
done

# Each is the leader of a process group. CONT: one that is stopped ends in order, too.
for e in $list; do
	kill -s "${e%%:*}" -- "-${e#*:}"
	kill -s CONT -- "-${e#*:}"
done
for e in $list; do
	n=0
	while [ $n -lt 100 ] && kill -s 0 -- "-${e#*:}"; do
		sleep 0.1
		n=$((n + 1))
	done
	kill -s KILL -- "-${e#*:}"
done

# The System V segment of a postmaster that was killed: line 7 of its pid file.
if [ -f "$dir/data/postmaster.pid" ]; then
	{
		for n in 1 2 3 4 5 6; do read -r line; done
		read -r key id
	} <"$dir/data/postmaster.pid"
	[ -n "$id" ] && ipcrm -m "$id"
fi

n=0
while [ $n -lt 50 ] && [ -e "$dir" ]; do
	rm -rf -- "$dir" || sleep 0.1
	n=$((n + 1))
done
