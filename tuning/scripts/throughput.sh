#!/bin/sh
# throughput: the most bytes a second, at the cost of latency and memory
#
# Made from a tuning profile by `lab tune script throughput`; to be changed there.
#
#   sh throughput.sh apply    set everything; the original values are kept in $LAB_TUNING_STATE
#   sh throughput.sh undo     restore it, but no value that was set by another program since
#   sh throughput.sh check    say what differs
set -u
export LC_ALL=C

state=${LAB_TUNING_STATE:-/run/lab-tuning-throughput}
tab=$(printf '\t')
faults=0
differences=0

say() { printf '%s\n' "$*"; }
fault() { say "$*" >&2; faults=$((faults + 1)); }

min() { if [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }
max() { if [ "$1" -gt "$2" ]; then echo "$1"; else echo "$2"; fi; }
pow2() { p=1; while [ "$p" -lt "$1" ]; do p=$((p * 2)); done; echo "$p"; }

memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) * 1024))
pages=$((memory / $(getconf PAGESIZE)))

# The CPUs that are switched on, one a line.
cpus() {
    tr ',' '\n' </sys/devices/system/cpu/online | while IFS=- read -r first last; do
        cpu=$first
        while [ "$cpu" -le "${last:-$first}" ]; do echo "$cpu"; cpu=$((cpu + 1)); done
    done
}
cores=$(cpus | grep -c .)

# The mask of the CPUs given, in groups of 32 bits.
mask_of() {
    groups=0
    for cpu in "$@"; do groups=$(max "$groups" $((cpu / 32 + 1))); done
    mask=
    while [ "$groups" -gt 0 ]; do
        groups=$((groups - 1))
        bits=0
        for cpu in "$@"; do
            if [ $((cpu / 32)) = "$groups" ]; then bits=$((bits | 1 << cpu % 32)); fi
        done
        mask=$mask${mask:+,}$(printf '%08x' "$bits")
    done
    normal mask "${mask:-0}"
}

# The CPUs of queue $2 of $3, for `spread`, `all`, `none` or a mask in $1.
cpus_of_queue() {
    case $1 in
        all) mask_of $(cpus) ;;
        none) echo 0 ;;
        spread)
            chosen=
            place=0
            for cpu in $(cpus); do
                if [ "$3" -lt "$cores" ]; then
                    [ $((place % $3)) = $(($2 % $3)) ] && chosen="$chosen $cpu"
                else
                    [ "$place" = $(($2 % cores)) ] && chosen="$chosen $cpu"
                fi
                place=$((place + 1))
            done
            mask_of $chosen
            ;;
        *) normal mask "$1" ;;
    esac
}

# The one way to write a value: normal FORMAT TEXT
normal() {
    case $1 in
        words) set -f; set -- $2; set +f; echo "$*" ;;
        # The kernel prints a set as its normal form is.
        ranges) printf '%s\n' "$2" ;;
        mask)
            digits=$(printf '%s' "$2" | tr -d ',\n' | tr 'A-F' 'a-f' | sed 's/^0*//')
            echo "${digits:-0}"
            ;;
        choice) printf '%s\n' "$2" | sed 's/.*\[\(.*\)\].*/\1/' ;;
    esac
}

# A mask as the kernel takes it: commas between groups of 32 bits.
grouped() { printf '%s\n' "$1" | sed -e ':a' -e 's/\([0-9a-f]\)\([0-9a-f]\{8\}\)\($\|,\)/\1,\2\3/' -e 'ta'; }

# get KIND FORMAT WHERE: the present value; fails when there is none.
get() {
    nic=${3%%:*}
    what=${3#*:}
    case $1 in
        file) text=$(cat "$3" 2>/dev/null) && normal "$2" "$text" ;;
        feature)
            case $what in
                rx-gro) line=generic-receive-offload ;;
                tx-generic-segmentation) line=generic-segmentation-offload ;;
                rx-lro) line=large-receive-offload ;;
                rx-hashing) line=receive-hashing ;;
                *) line=$what ;;
            esac
            value=$(ethtool -k "$nic" 2>/dev/null | sed -n "s/^[[:space:]]*$line: \(on\|off\).*/\1/p")
            [ -n "$value" ] && echo "$value"
            ;;
        ring)
            value=$(ethtool -g "$nic" 2>/dev/null |
                sed -n "/^Current/,\$s/^$what:[[:space:]]*\([0-9][0-9]*\)/\1/p")
            [ -n "$value" ] && echo "$value"
            ;;
        coalesce)
            case $what in
                adaptive-rx) line='Adaptive RX: \(on\|off\).*' ;;
                adaptive-tx) line='Adaptive RX: [^ ]* *TX: \(on\|off\)' ;;
                *) line="$what:[[:space:]]*\([0-9][0-9]*\)" ;;
            esac
            value=$(ethtool -c "$nic" 2>/dev/null | sed -n "s/^$line\$/\1/p")
            case $value in on) value=1 ;; off) value=0 ;; esac
            [ -n "$value" ] && echo "$value"
            ;;
    esac
}

# put KIND FORMAT WHERE VALUE
put() {
    nic=${3%%:*}
    what=${3#*:}
    case $1 in
        file)
            value=$4
            if [ "$2" = mask ]; then value=$(grouped "$4"); fi
            { printf '%s\n' "$value" >"$3"; } 2>/dev/null
            ;;
        feature) ethtool -K "$nic" "$what" "$4" >/dev/null 2>&1 ;;
        ring) ethtool -G "$nic" "$(printf '%s' "$what" | tr 'A-Z' 'a-z')" "$4" >/dev/null 2>&1 ;;
        coalesce)
            value=$4
            case $what:$4 in adaptive-*:1) value=on ;; adaptive-*:0) value=off ;; esac
            ethtool -C "$nic" "$what" "$value" >/dev/null 2>&1
            ;;
    esac
}

# along WHERE: the files that the kernel may change when this one is written.
along() {
    case $1 in
        /proc/sys/net/ipv4/tcp_congestion_control) echo /proc/sys/net/ipv4/tcp_allowed_congestion_control ;;
        /proc/sys/vm/dirty_bytes) echo /proc/sys/vm/dirty_ratio ;;
        /proc/sys/vm/dirty_ratio) echo /proc/sys/vm/dirty_bytes ;;
        /proc/sys/vm/dirty_background_bytes) echo /proc/sys/vm/dirty_background_ratio ;;
        /proc/sys/vm/dirty_background_ratio) echo /proc/sys/vm/dirty_background_bytes ;;
        /proc/sys/vm/overcommit_kbytes) echo /proc/sys/vm/overcommit_ratio ;;
        /proc/sys/vm/overcommit_ratio) echo /proc/sys/vm/overcommit_kbytes ;;
        /proc/sys/kernel/watchdog) echo /proc/sys/kernel/nmi_watchdog /proc/sys/kernel/soft_watchdog ;;
        /proc/sys/kernel/nmi_watchdog) echo /proc/sys/kernel/watchdog /proc/sys/kernel/soft_watchdog ;;
        /proc/sys/kernel/soft_watchdog) echo /proc/sys/kernel/watchdog /proc/sys/kernel/nmi_watchdog ;;
        /proc/sys/net/ipv4/ip_forward) echo /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/accept_redirects ;;
        /proc/sys/net/ipv4/conf/all/forwarding) echo /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/conf/*/accept_redirects ;;
        /proc/sys/net/ipv6/conf/all/forwarding) echo /proc/sys/net/ipv6/conf/*/forwarding ;;
        /proc/sys/net/ipv6/conf/all/disable_ipv6) echo /proc/sys/net/ipv6/conf/*/disable_ipv6 ;;
        /proc/sys/net/ipv6/conf/all/ignore_routes_with_linkdown) echo /proc/sys/net/ipv6/conf/*/ignore_routes_with_linkdown ;;
        /sys/kernel/mm/transparent_hugepage/*) echo /proc/sys/vm/min_free_kbytes ;;
    esac
}

# sets FORMAT RELATION NOW WANTED: a set with all of these, or with no others.
sets() {
    awk -v format="$1" -v way="$2" -v now="$3" -v wanted="$4" '
        function fail() { failed = 1; exit 1 }
        function ranges(text, set,    parts, count, i, ends, n) {
            gsub(/[ \t]+/, ",", text)
            count = split(text, parts, ",")
            for (i = 1; i <= count; i++) {
                if (parts[i] == "") continue
                if (split(parts[i], ends, "-") == 1) ends[2] = ends[1]
                if (ends[1] !~ /^[0-9]+$/ || ends[2] !~ /^[0-9]+$/) fail()
                for (n = ends[1] + 0; n <= ends[2] + 0; n++) set[n] = 1
                if (ends[2] + 0 > most) most = ends[2] + 0
            }
        }
        function mask(text, set,    i, b, digit) {
            for (i = 0; i < length(text); i++) {
                digit = index("0123456789abcdef", substr(text, length(text) - i, 1)) - 1
                if (digit < 0) fail()
                for (b = 0; b < 4; b++) {
                    if (digit % 2) set[i * 4 + b] = 1
                    digit = int(digit / 2)
                }
                if (i * 4 + 3 > most) most = i * 4 + 3
            }
        }
        function holds(n) { return way == "at_least" ? (n in a) || (n in b) : (n in a) && (n in b) }
        BEGIN {
            most = 0
            if (format == "mask") { mask(now, a); mask(wanted, b) }
            else { ranges(now, a); ranges(wanted, b) }
            for (n = 0; n <= most + 1; n++) {
                if (format == "mask") {
                    if (holds(n)) digit += 2 ^ (n % 4)
                    if (n % 4 == 3) { out = substr("0123456789abcdef", digit + 1, 1) out; digit = 0 }
                } else if (holds(n)) {
                    if (first == "") first = n
                    last = n
                } else if (first != "") {
                    out = out (out == "" ? "" : ",") (first == last ? first : first "-" last)
                    first = ""
                }
            }
            if (format == "mask") { sub(/^0+/, "", out); if (out == "") out = "0" }
            print out
        }
        END { if (failed) exit 1 }'
}

# bound RELATION NOW WANTED FORMAT: what must be written, number by number.
bound() {
    [ "$1" = exactly ] && { echo "$3"; return; }
    case $4 in ranges | mask) sets "$4" "$1" "$2" "$3"; return ;; esac
    wanted=$3
    out=
    for has in $2; do
        wants=${wanted%% *}
        case $wanted in *' '*) wanted=${wanted#* } ;; *) wanted= ;; esac
        [ -n "$wants" ] || return 1
        case $1 in
            at_least) has=$(max "$has" "$wants") ;;
            at_most) has=$(min "$has" "$wants") ;;
        esac
        out="$out $has"
    done
    [ -z "$wanted" ] && echo "${out# }"
}

# one NAME FORMAT RELATION ROUNDING NEED KIND WHERE VALUE: notes what must be changed.
one() {
    if ! before=$(get "$6" "$2" "$7"); then
        if [ "$5" = optional ]; then
            say "skipped: $1: there is no $7 here"
        else
            fault "$1: $7 cannot be read"
        fi
        return
    fi
    if ! after=$(bound "$3" "$before" "$8" "$2"); then
        fault "$1: '$before' and '$8' cannot be compared"
        return
    fi
    if [ "$4" = pow2 ] && [ "$after" != "$before" ] && [ "$after" != 0 ]; then
        after=$(pow2 "$after")
    fi
    [ "$before" = "$after" ] && return
    differences=$((differences + 1))
    say "$1: $before -> $after"
    # Before it, so that undo, which goes backwards, comes to them after it.
    for other in $(along "$7"); do
        [ "$other" != "$7" ] && [ -w "$other" ] && value=$(get file words "$other") &&
            printf '%s\n' "along${tab}words$tab$other$tab=$value$tab?$tab$other" >>"$list"
    done
    # A sign in front, since an empty word between two tabs would be lost.
    printf '%s\n' "$6$tab$2$tab$7$tab=$before$tab=$after$tab$1" >>"$list"
}

setting() { one "$1" "$2" "$3" "$4" "$5" file "$6" "$7"; }

# Interfaces with a card behind them; without any, all that are up, but never loopback.
cards() {
    found=
    for path in /sys/class/net/*; do
        [ -e "$path/device" ] && found="$found ${path##*/}"
    done
    if [ -z "$found" ]; then
        for path in /sys/class/net/*; do
            flags=$(cat "$path/flags" 2>/dev/null) || continue
            [ $((flags & 9)) = 1 ] && found="$found ${path##*/}"
        done
    fi
    echo $found
}

# of_cards NAME FORMAT RELATION ROUNDING NEED KIND WHAT VALUE NIC...
of_cards() {
    head="$2 $3 $4 $5 $6"
    name=$1
    what=$7
    value=$8
    shift 8
    for nic in "$@"; do one "$name $nic" $head "$nic:$what" "$value"; done
}

# of_queues NAME FORMAT RELATION ROUNDING NEED WAY FILE VALUE NIC...
of_queues() {
    head="$2 $3 $4 $5 file"
    name=$1
    format=$2
    way=$6
    file=$7
    value=$8
    shift 8
    for nic in "$@"; do
        count=0
        for path in "/sys/class/net/$nic/queues/$way"-*; do count=$((count + 1)); done
        # One queue to send leaves nothing to choose.
        [ "$way" = tx ] && [ "$count" -lt 2 ] && continue
        for path in "/sys/class/net/$nic/queues/$way"-*; do
            wanted=$value
            [ "$format" = mask ] && wanted=$(cpus_of_queue "$value" "${path##*-}" "$count")
            one "$name $nic ${path##*/}" $head "$path/$file" "$wanted"
        done
    done
}

# of_interrupts NAME FORMAT RELATION ROUNDING NEED VALUE NIC...
of_interrupts() {
    head="$2 $3 $4 $5 file"
    name=$1
    value=$6
    shift 6
    for nic in "$@"; do
        directory=/sys/class/net/$nic/device/msi_irqs
        [ -d "$directory" ] || directory=/sys/class/net/$nic/device/../msi_irqs
        [ -d "$directory" ] || continue
        irqs=$(ls "$directory" | sort -n)
        count=$(max "$(echo "$irqs" | grep -c .)" "$cores")
        place=0
        for irq in $irqs; do
            wanted=$(cpus_of_queue "$value" "$place" "$count")
            one "$name $nic irq$irq" $head "/proc/irq/$irq/smp_affinity" "$wanted"
            place=$((place + 1))
        done
    done
}

# of_cpus NAME FORMAT RELATION ROUNDING NEED FILE VALUE
of_cpus() {
    for cpu in $(cpus); do
        one "$1 cpu$cpu" "$2" "$3" "$4" "$5" file "/sys/devices/system/cpu/cpu$cpu/$6" "$7"
    done
}

# of_idle_states NAME FORMAT RELATION ROUNDING NEED MICROSECONDS
of_idle_states() {
    for cpu in $(cpus); do
        directory=/sys/devices/system/cpu/cpu$cpu/cpuidle
        if [ ! -d "$directory" ]; then
            if [ "$5" = optional ]; then say "skipped: $1"; else fault "$1: no idle states"; fi
            return
        fi
        for path in "$directory"/state*; do
            [ "$(cat "$path/latency")" -gt "$6" ] || continue
            one "$1 cpu$cpu ${path##*/}" words exactly as_it_is "$5" file "$path/disable" 1
        done
    done
}

settings() {
    # a receive buffer must hold what is under way: 10 Gbit/s times 13.4 ms is 16 MiB
    setting 'net.core.rmem_max' words at_least as_it_is required '/proc/sys/net/core/rmem_max' '16777216'
    # a send buffer must hold what is under way, as above
    setting 'net.core.wmem_max' words at_least as_it_is required '/proc/sys/net/core/wmem_max' '16777216'
    # the third value is how far TCP's own tuning of a receive buffer may go
    setting 'net.ipv4.tcp_rmem' words at_least as_it_is required '/proc/sys/net/ipv4/tcp_rmem' '4096 131072 16777216'
    # the third value is how far TCP's own tuning of a send buffer may go
    setting 'net.ipv4.tcp_wmem' words at_least as_it_is required '/proc/sys/net/ipv4/tcp_wmem' '4096 65536 16777216'
    # a transfer that pauses goes on with the window that it had
    setting 'net.ipv4.tcp_slow_start_after_idle' words exactly as_it_is required '/proc/sys/net/ipv4/tcp_slow_start_after_idle' '0'
    # a CPU takes more packets from the cards before it lets others have it
    setting 'net.core.netdev_budget' words at_least as_it_is required '/proc/sys/net/core/netdev_budget' '600'
    # packets that come faster than a CPU takes them wait here instead of being dropped
    setting 'net.core.netdev_max_backlog' words at_least as_it_is required '/proc/sys/net/core/netdev_max_backlog' '16384'
    # packets go to the CPU on which their connection's thread runs, for so many connections
    setting 'net.core.rps_sock_flow_entries' words at_least pow2 optional '/proc/sys/net/core/rps_sock_flow_entries' '32768'
    # each receive queue remembers so many connections, or the setting above does nothing
    of_queues 'nic.rps-flows' words at_least pow2 optional rx rps_flow_cnt '32768' $(cards)
    # packets of one connection go through the kernel together
    of_cards 'nic.feature.rx-gro' words exactly as_it_is optional feature 'rx-gro' 'on' $(cards)
    # large writes are cut into packets at the end of their way through the kernel
    of_cards 'nic.feature.tx-generic-segmentation' words exactly as_it_is optional feature 'tx-generic-segmentation' 'on' $(cards)
    # the card cuts large writes into packets
    of_cards 'nic.feature.tx-tcp-segmentation' words exactly as_it_is optional feature 'tx-tcp-segmentation' 'on' $(cards)
    # a burst that comes while the CPU is busy waits in the card's ring instead of being lost
    of_cards 'nic.ring.rx' words at_least as_it_is optional ring 'RX' '4096' $(cards)
    # a burst of writes waits in the card's ring instead of stopping the queue
    of_cards 'nic.ring.tx' words at_least as_it_is optional ring 'TX' '4096' $(cards)
    # one interrupt for all packets of so many microseconds
    of_cards 'nic.coalesce.rx-usecs' words at_least as_it_is optional coalesce 'rx-usecs' '50' $(cards)
    # the clock does not go down between bursts
    of_cpus 'cpu.governor' choice exactly as_it_is optional cpufreq/scaling_governor 'performance'
    :
}

# Takes changes back, the last one first. What another program has set is found before anything is
# written, and settings that change each other take two rounds.
undo() {
    foreign=
    round look
    round put 2>/dev/null
    round put 2>/dev/null
    round say
    [ "$left" = 0 ] && rm -f "$state"
}

round() {
    left=0
    while IFS=$tab read -r kind format where before after name; do
        [ "$kind" = along ] && kind=file
        before=${before#=}
        if ! now=$(get "$kind" "$format" "$where"); then
            [ "$1" = say ] && say "gone: $name"
        elif [ "$now" = "$before" ]; then
            :
        elif [ "$1" = look ]; then
            [ "$after" = '?' ] || [ "$now" = "${after#=}" ] || foreign="$foreign$tab$name$tab"
        elif [ "${foreign#*"$tab$name$tab"}" != "$foreign" ]; then
            say "left alone: $name is $now, which another program has set (before: $before)" >&2
            left=1
        elif put "$kind" "$format" "$where" "$before" &&
            [ "$(get "$kind" "$format" "$where")" = "$before" ]; then
            say "restored: $name = $before"
        else
            say "not restored: $name is $now, and was $before" >&2
            left=1
        fi
    done <<EOF
$(sed '1!G;h;$!d' "$state")
EOF
}

apply() {
    if [ -e "$state" ]; then
        say "$state is there: undo what it says first" >&2
        exit 1
    fi
    list=$state.new
    (umask 077 && : >"$list") || exit 1
    settings
    if [ "$faults" != 0 ]; then
        rm -f "$list"
        say "nothing was changed" >&2
        exit 1
    fi
    sync
    mv "$list" "$state" || exit 1
    sync
    while IFS=$tab read -r kind format where before after name; do
        [ "$kind" = along ] && continue
        after=${after#=}
        if ! put "$kind" "$format" "$where" "$after" ||
            [ "$(get "$kind" "$format" "$where")" != "$after" ]; then
            say "$name: $after was not taken: everything goes back" >&2
            undo
            exit 1
        fi
    done <"$state"
    # What the kernel has changed along goes back, too, unless another program sets it.
    while IFS=$tab read -r kind format where before after name; do
        [ "$kind" = along ] && after="=$(get file "$format" "$where")"
        printf '%s\n' "$kind$tab$format$tab$where$tab$before$tab$after$tab$name"
    done <"$state" >"$list"
    mv "$list" "$state"
}

case ${1:-} in
    apply) apply ;;
    undo)
        [ -e "$state" ] || { say "nothing is applied"; exit 0; }
        undo
        ;;
    check)
        list=/dev/null
        settings
        [ "$faults" = 0 ] && [ "$differences" = 0 ]
        ;;
    *)
        say "sh ${0##*/} apply | undo | check" >&2
        exit 2
        ;;
esac
