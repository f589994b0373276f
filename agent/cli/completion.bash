# Bash completion of zsad-agent: its commands, and the flags that the --help of a command names.
_zsad_agent() {
    local word=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} command='' words=''
    [[ $COMP_CWORD -eq 1 || ${COMP_WORDS[1]} == -* ]] || command=${COMP_WORDS[1]}
    if [[ $word == -* ]]; then
        words=$("$program" ${command:+"$command"} --help 2>/dev/null | grep -oE -e '--[a-z][a-z-]+' | sort -u)
    elif [[ $COMP_CWORD -eq 1 ]]; then
        words=$("$program" --help 2>/dev/null | sed -n '/^commands/,/^$/s/^  \([a-z]*\) .*/\1/p')
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _zsad_agent zsad-agent
