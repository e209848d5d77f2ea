# Tests of which one fails, in colour.
red='\033[31m'; green='\033[32m'; bold='\033[1m'; faint='\033[2m'; end='\033[0m'
printf "${bold}running 6 tests${end}\n"
for test in orders::are_listed orders::are_paged prices::are_rounded stock::is_counted; do
    printf "test $test ... ${green}ok${end}\n"
done
sleep 0.2
[ "$(cat params/revision)" != first ] || exit 0
printf "test prices::have_a_currency ... ${red}FAILED${end}\n"
printf "test stock::is_never_negative ... ${green}ok${end}\n\n"
printf "${red}${bold}error${end}${bold}: assertion failed: \`left == right\`${end}\n"
printf "  ${faint}left:${end} \"12.50 EUR\"\n  ${faint}right:${end} \"12.50 €\"\n   ${faint}at tests/prices.rs:48:5${end}\n\n"
printf "test result: ${red}FAILED${end}. 5 passed; 1 failed\n"
exit 101
