#!/usr/bin/env python3
"""Writes sentences.txt: the sentences that the builtin N-best lists are spoken from.

    python3 scripts/builtin/make_sentences.py > scripts/builtin/sentences.txt

Every sentence is our own: written out below, or one of a few fillings of a pattern written below.
A pattern, and every plain sentence, belongs to one part only, `train` or `valid`, and the patterns of
`valid` are about other topics than those of `train`; so nothing in `valid` is the twin of a sentence
in `train`. Output: one line a sentence, the part, a tab, the words in lower case. No input, fixed seed.
"""

import random
import re

FILLINGS = {"train": 8, "valid": 4}  # sentences drawn from each pattern

PATTERNS = {}
PATTERNS["train"] = """
# kitchen and food
we need {some|more} {bread|butter|cheese|rice|fruit} and a bottle of {milk|water|oil|wine} for {dinner|lunch|tonight|the party}
put the {soup|meat|chicken|fish} in the oven and wait for {ten|twenty|thirty|fifteen} minutes
would you like {sugar|milk|cream|honey} in your {coffee|tea} or do you drink it {black|cold|hot|without}
my {mother|grandmother|brother|wife} always makes {soup|cake|bread|fish} on {sunday|friday|saturday} {morning|evening|afternoon}
the {apples|oranges|potatoes|onions} on the {kitchen table|top shelf|counter} are {too old|not ready|still fresh|very cheap}
i forgot to buy {eggs|salt|flour|pepper} so we cannot make the {cake|soup|bread|sauce} today
the {restaurant|cafe|place} {near the station|across the street|by the river} has very good {food|fish|meat|coffee}
please wash the {plates|glasses|cups|knives} before your {friends|parents|sister} {come back|arrive|get here}
# travel
the {train|bus|flight|boat} to {london|paris|boston|chicago|the island} leaves at {six|seven|nine|eleven} in the {morning|evening}
how long does it take to {drive|walk|get} from the {airport|hotel|station|office} to the {city center|beach|museum|old town}
we missed the last {train|bus|boat} and had to {walk home|wait for hours|take a taxi|stay in a hotel}
turn {left|right} at the {church|bank|school|second light} and then go straight until you see {the bridge|a park|the river|a red house}
i would like a room with {two beds|a view of the sea|a big window|a desk} for {three|two|four|five} nights
she lost her {passport|ticket|bag|phone} on the way to the {airport|station|hotel|museum}
there was so much {traffic|snow|rain|fog} on the road that we arrived {an hour|two hours|half a day} late
they are planning a trip to the {mountains|coast|lake|desert} {next summer|in the spring|in july|after christmas}
# work and office
can you send me the {report|letter|contract|list} before {noon|the end of the day|the meeting|five o'clock}
the meeting with the {new client|manager|bank|whole team} was moved from {monday|tuesday} to {wednesday|thursday|friday}
our company {hired|needs|is looking for} {three|five|several|many} new {engineers|people|drivers|workers} this {year|month|week}
he has been working {on this project|in that office|for the same company} for almost {ten years|a year|six months}
i am afraid that my {boss|manager|director} will not {like|accept|read} the {idea|plan|offer|budget}
she {got|wanted|asked for} a {better|new|second} job because the {pay|old one|office} was {too low|too far away|very bad}
please {print|sign|check|copy} the last {two|three|four} pages and leave them on my {desk|chair|table}
the {printer|computer|phone|door} in the {office|meeting room|hall} does not work {again|today|anymore}
# weather and nature
it will be {cold|warm|sunny|cloudy} tomorrow with some {rain|wind|snow} in the {north|south|west|east}
after the {storm|rain|flood} there were {trees|leaves|branches|stones} all over the {road|garden|street}
the {birds|leaves|flowers|days} {in the park|around here|in our garden} are {beautiful|lovely|different} in {spring|autumn|summer}
you should take {a coat|an umbrella|warm clothes|your boots} because it is {raining|snowing|freezing} outside
we saw a {deer|fox|bear|rabbit} near the {river|forest|lake|path} when we were walking {home|in the woods|with the dog}
the sun {rises|sets|goes down} {early|late|before seven} at this time of the {year|month}
# family and friends
my {brother|sister|cousin|uncle} and his {children|family|friends} live in a small {town|house|village} near {the sea|the mountains|the border}
her {father|mother|grandfather|aunt} was {a teacher|a nurse|a farmer|a doctor} before the {war|children were born|family moved}
they have been {married|friends|neighbors|together} for more than {twenty|thirty|forty|ten} years
our {neighbors|friends|cousins|parents} are coming to {visit|see|help} us next {weekend|week|month|sunday}
the {baby|little girl|boy|old man} was {sleeping|crying|sitting|laughing} in the {garden|next room|kitchen|living room}
did you {remember|forget|want} to call your {sister|mother|friend|son} on her {birthday|phone|first day at school}
i have known {him|her|them} since we were {children|students|in school|very young}
# school and learning
the {teacher|professor|students} asked {many|some|two} {hard|easy|strange|good} questions about the {book|story|history of the town|test}
she is learning to {speak|read|write} {french|english|spanish|german} because she wants to {live|work|study} there
the children have to {read|finish|write} {a page|a story|two chapters} before {they can play|monday|bed}
he studied {law|history|science|music} at the university and later became a {judge|writer|teacher|singer}
you will not pass the {test|exam|class} if you do not {study|read|listen|practice} every day
# shopping and money
how much do these {shoes|shirts|books|glasses} cost and do you have them in {blue|green|black|a bigger size}
i paid {twenty|fifty|ninety|forty} dollars for this {shirt|lamp|jacket|chair} and it {broke|tore|failed} after {a week|one day|two days}
the {shop|market|store|bank} on the corner {opens|closes} at {eight|nine|ten|six} on {weekdays|saturdays|sundays}
we are saving money to buy a {house|car|boat|new kitchen} in {two years|the spring|a few months}
she sold her old {car|bike|piano|camera} to a {student|neighbor|young man|friend} for a good price
# health
the doctor told {him|her|me} to {rest|stay in bed|drink water|stop smoking} and to come back in {a week|ten days|a month}
my {back|head|knee|shoulder} has been hurting since {i fell|last night|the game|we moved the table}
you should {eat|sleep|walk|run} {more|less} if you want to {feel better|be healthy|lose weight}
the nurse gave the {boy|old woman|patient|girl} some {medicine|water|tea|help} and {told him|asked her} to lie down
# home and repair
there is a hole in the {roof|wall|floor|fence} and the {water|wind|cold air|rain} comes in
can you help me {move|carry|fix|lift} the {table|sofa|bed|heavy box} into the {garage|bedroom|kitchen}
the {light|window|heater|key} in the {bathroom|hall|cellar|bedroom} is broken and {nobody|my father|someone} has to {fix|replace} it
they painted the {front door|walls|fence|ceiling} {white|yellow|dark blue|light green} last {week|summer|year}
turn off the {lights|radio|heating|music} and lock the {door|gate|windows} when you {leave|go out|go to bed}
# sport and free time
our team {won|lost} the {game|match|final} by {two|three|one|four} {points|goals} after a very {long|good|bad} {start|season|day}
he {runs|swims|walks|rides} {two|five|three|ten} miles every {morning|evening|saturday} before {work|breakfast|dinner}
i want to learn to {play the piano|dance|paint|sing|ski} but i never have {enough time|a good teacher|the money}
we watched {an old movie|the news|a football game|a film about birds} and went to bed {late|at midnight|after eleven}
she {plays|played} the {guitar|piano|violin|drums} in a {band|small group} with her {brother|friends|husband}
# town and news
the {mayor|president|minister|governor} said that the {city|country|state} will build {more schools|a new bridge|two hospitals|better roads}
the police are looking for a {man|woman|driver} who {stole|took|found} a {car|bag|painting|bike} on {friday night|main street|tuesday}
{hundreds|thousands|dozens} of people {walked|stood|marched} in the {streets|rain|square} to {hear|see|support} the {singer|speaker|team}
the price of {gas|oil|bread|land} has gone {up|down} {again|by ten percent|since last year|this month}
the old {theater|factory|library|school} will be {closed|opened|sold|painted} in {march|april|june|october}
# computers and phones
i cannot {open|find|read|save} the {file|message|picture|letter} that you sent me {yesterday|this morning|last week}
my phone {was stolen|fell into the water|needs a new battery|stopped working} so please {write to|call|send a message to} my {wife|office|brother}
"""

PATTERNS["valid"] = """
# farm and animals
the farmer keeps {six cows|two horses|a few sheep|forty chickens} in the field behind the {barn|house|hill}
our {dog|cat} is afraid of {thunder|strangers|loud noise|the dark} and hides under the {bed|stairs|blanket}
feed the {horses|pigs|ducks|hens} early and close the {gate|barn door} so that they do not {run away|get out|get wet}
a young {lion|elephant|monkey|tiger} was born at the zoo {last night|in may|on thursday}
# post, library, services
i have a {package|parcel|card} to send to my {daughter|nephew|friend} in {canada|japan|italy|texas}
you can borrow {three books|a map|this dictionary|old magazines} from the library for {two weeks|a month|four days}
the {electric|water|phone} bill came {today|in the mail|on monday} and it was {higher|lower|twice as high} than usual
# cars
the {engine|brake|back wheel} makes a {strange|terrible|soft} sound whenever i {slow down|start the car|go up a hill}
fill the tank and check the {tires|oil|mirrors} before you drive {across the country|to the coast|through the night}
she was driving too {fast|close to the truck|slowly} and could not stop at the {red light|corner|crossing}
# wedding, holidays, party
{sixty|eighty|almost a hundred} guests danced at the wedding until {sunrise|two in the morning|the band went home}
we always {decorate the tree|bake cookies|sing songs|light candles} on the day before {christmas|new year's day}
thank you for the {lovely present|flowers|invitation|beautiful card} and for coming {so far|to our party|with your children}
# garden
she planted {roses|tomatoes|carrots|beans} along the {wall|path|south side} and gives them water {every evening|twice a day|when it is dry}
cut the {grass|hedge|dead branches} before it gets {dark|too hot|wet again}
# books and stories
the {novel|poem|story} is about a {king|sailor|soldier|widow} who {returns home|loses everything|finds a treasure} after {many years|a long war|a storm}
once upon a time a {poor|clever|lonely} {woman|prince|giant} lived alone in a {castle|cave|forest}
# sea and camp
the fishermen {came home|went out|sold their fish} before {dawn|the tide turned|the wind changed}
we slept in a {tent|cabin|barn} beside the {lake|river|sea} and cooked over {an open fire|hot stones}
the captain ordered the {sailors|crew|men} to {turn the ship|lower the sails|wait for orders} when he saw the {rocks|coast|other ship}
"""

PLAIN = {}
PLAIN["train"] = """
i do not know what you are talking about
she opened the window to let some fresh air in
he was the only one who knew the answer
what time should we meet in front of the cinema
there is nothing better than a quiet evening at home
the boy put his hands in his pockets and looked away
nobody told me that the road was closed
you can leave your shoes by the door
they talked for hours but could not agree on anything
please speak a little louder because i cannot hear you
the first thing he did was to make a cup of tea
we have plenty of time so there is no need to hurry
she smiled at him and turned back to her book
let me know if there is anything that i can do for you
the man at the desk asked me for my name and address
this is the third time that you have asked me that question
everybody was tired but nobody wanted to go home
he could not believe what he saw when he opened the box
my daughter wants to be a pilot when she grows up
the house was empty and all the lights were off
it is not easy to find a good place to live in this city
the two men shook hands and sat down
if you see him tell him that i am looking for him
i never said that it was your fault
the water in the lake was so clear that we could see the bottom
she wrote her number on a piece of paper and gave it to me
who is going to take care of the dog while we are away
the whole family sat around the table and listened
he put the letter in the fire without reading it
there were only four people left in the room
i would rather stay here and finish my work
do you think that we will ever see them again
it took me a long time to understand what she meant
the last time i saw her she was living in new york
he always carries a small knife and a piece of string
the door opened slowly and a tall woman came in
i am sorry that i could not come to your party
we used to play in this street when we were young
they say that money cannot buy happiness
the bus was so full that we had to stand all the way
you must be very proud of your son
someone has been sitting in my chair
it was a cold night and there was ice on the road
he spends most of his time alone in his room
that was the best meal i have had in years
could you tell me where the nearest post office is
her voice was so quiet that i could hardly hear it
the clock on the wall said that it was half past nine
i will pick you up from the station at six
we do not have enough chairs for all these people
she is not only a good doctor but also a good friend
he walked up and down the room and said nothing
the children were playing with a ball in the yard
it is hard to say no to an old friend
when i was your age i had to walk to school
most people think that he is right
the bridge was built more than two hundred years ago
i have not eaten anything since breakfast
she took off her hat and put it on the table
the more you practice the better you will become
he did not want to hurt her feelings
we stood at the window and watched the snow fall
you have to choose between these two
their house is much bigger than ours
the story he told us was not true
i can see the church from my bedroom window
there must be some kind of mistake
they left without saying goodbye
the old woman sold flowers on the corner of the street
he has more money than he can spend
my father taught me how to swim
all of a sudden the lights went out
this road goes through the middle of the forest
she could not sleep because of the noise
he looked at his watch and started to run
we will have to wait and see what happens
the letter was written in a language that i did not know
i think you should tell her the truth
a good night of sleep is the best medicine
they named their daughter after her grandmother
the policeman told us to move the car
he promised to pay me back by the end of the month
my sister is two years older than me
we were surprised to find that the shop was already closed
she fell in love with the house the moment she saw it
nothing will change unless we do something about it
the air was full of smoke and dust
he asked for a glass of cold water
i do not remember where i put my keys
the ship was far out at sea when the storm began
please do not touch anything until i come back
she has a lot of friends but no one to talk to
the best way to get there is on foot
he cut the bread into thick pieces
we are going to need a bigger boat
the king had three sons and one daughter
every evening the old man fed the birds in the park
it would be nice to have a little help
i was just about to call you
she broke her arm when she fell off the horse
there is a small problem with your order
he made a lot of mistakes but he learned from them
the moon was bright and the road was white
you look as if you have not slept for days
they moved to the country because of the children
our plane was late because of the weather
she was wearing a long red dress and black shoes
the soldiers marched through the town in silence
i have heard that song many times before
we can talk about it tomorrow after work
the wind blew his hat into the river
her husband is away on business until friday
do not forget to bring your own lunch
he is too young to drive a car
the meeting lasted much longer than i expected
she told the children a story and kissed them good night
it was the worst winter in thirty years
you should have asked me before you took it
the bank will not lend us any more money
i left my umbrella on the train again
he knows every street in this part of the city
they found the boy asleep under a tree
the teacher wrote a few words on the board
we have lived in this house since the war
she poured the milk into a blue cup
what would you do if you had a million dollars
the judge asked the woman to stand up
he was born in a small village in the north of france
i like this picture better than the other one
the dog ran after the ball and brought it back
nobody knows how the fire started
she made herself a sandwich and turned on the radio
there was a long line in front of the ticket office
he never talks about his time in the army
the river is too wide and too deep to cross here
we heard a loud noise in the middle of the night
the company makes shoes for women and children
i am looking forward to seeing you again
she reads the newspaper every morning before work
the train stopped for an hour in the middle of nowhere
he is the kind of man who never changes his mind
both of my parents were born in this town
you can pay by card or in cash
the snow on the roof began to melt
they had to sell the farm after the bad harvest
i feel much better than i did yesterday
the cook put a little salt into the soup
she has been waiting for you since noon
he held the door open for the old lady
we need to talk about your plans for the future
the sky turned dark and it began to rain
that is exactly what i wanted to hear
her eyes were red because she had been crying
the first train in the morning is always full
i could not find a single word to say
they gave him a gold watch when he left the company
my brother can fix almost any machine
the walls of the old town are very thick
it does not matter how much it costs
she put on her coat and went out into the cold
the little boy was afraid to jump into the water
we want to thank everyone who helped us
he drew a map of the island from memory
the shop sells everything from nails to bread
you cannot trust everything you read in the paper
i stopped smoking five years ago
the hotel was clean and the people were friendly
she counted the money twice and put it away
a strange car was parked in front of our house
he climbed the tree to get the cat down
the game was stopped because of heavy rain
they lived happily in a house by the sea
my feet hurt after standing all day
the book you gave me was very interesting
there is still some soup left if you are hungry
he speaks four languages but writes only one
we could see the lights of the town in the distance
the baby has her mother's eyes and her father's nose
it is better to be safe than sorry
i'm not sure if that's a good idea
don't worry about the money because we have enough
she didn't know that he was her teacher's brother
you can't park here after seven o'clock
it's the only way to get to the other side
we don't have time to read the whole thing
he wasn't at home when i knocked on the door
they couldn't find the right house in the dark
i'll be back in a few minutes with the keys
that's what i was trying to tell you
"""

PLAIN["valid"] = """
the crowd grew silent when the singer stepped on the stage
i would have come earlier but my car did not start
she hung the wet clothes on a line between two trees
nobody expected the young player to win the first prize
the museum is free for children under the age of twelve
he wiped the dust off the old photograph with his sleeve
could i speak to the person who is in charge here
the path became so narrow that we had to walk one behind the other
they argued about politics all through the meal
my grandmother never learned how to use a computer
the smell of coffee woke me up this morning
he was given a second chance and he used it well
as soon as the rain stops we will go down to the beach
the lawyer asked him where he had been that night
we ran out of gas ten miles from the nearest town
i did not notice that my shirt was inside out
her first book sold more than a million copies
a thin layer of ice covered the windows of the car
he takes the same walk through the park every day
you ought to see a dentist about that tooth
the guide showed us a secret room behind the wall
it was not until later that i understood the joke
she has a talent for making people feel welcome
the kids built a house out of boxes and old blankets
somebody left a bunch of flowers on my desk
the factory will stop making cars at the end of the year
i cannot remember the last time it was this hot
he threw a stone into the pond and scared the ducks
we agreed to split the cost of the trip between us
the pilot said that we would land in twenty minutes
her little brother is always getting into trouble
the road to the village was blocked by a fallen tree
a stranger helped me carry my bags up the stairs
what is the difference between these two kinds of tea
he repeated the question but she did not answer
the newspaper printed his picture on the front page
if it were up to me we would leave right now
the carpenter measured the board and cut it in half
i am allergic to nuts so please leave them out
the audience clapped for five minutes after the play
she keeps a diary and writes in it every night
the coffee machine at work is out of order
we spent the afternoon looking at old pictures
he apologized for being late and took his seat
the town has changed a lot since i was a child
you will find the towels on the second shelf
a group of tourists was waiting outside the palace
the nurse wrapped a bandage around his hand
i wish that i could sing as well as you do
the island can only be reached by boat
he borrowed my bicycle and never gave it back
they celebrated the victory with music and dancing
the roof of the church was damaged in the storm
my uncle collects stamps and old coins
she whispered something in his ear and he laughed
the judge sent the thief to prison for three years
there is no point in arguing with him
we woke up early to watch the sun rise over the mountains
the soup was too salty but nobody complained
he has been unemployed since the mine closed
the wallet was lying on the ground under a bench
i need a sharp pencil and a clean sheet of paper
the boys raced each other to the end of the street
her office is on the fourth floor next to the elevator
the wolf is a shy animal that avoids people
they promised to finish the work before winter
he dropped a glass and it broke into a hundred pieces
the tailor made him a suit of dark gray wool
you never know how strong you are until you have to be
the cat jumped onto the table and stole a piece of fish
i keep my savings in a box under the bed
the professor spoke for an hour without looking at his notes
a cold drink is just what i need on a day like this
she inherited a fortune from an aunt she had never met
the bell rang and the pupils ran out of the classroom
his handwriting is so bad that nobody can read it
the lake was frozen and people were skating on it
we had to cancel the picnic because of the weather
the detective found a clue that everyone else had missed
i'd love to come but i've already made other plans
it isn't fair that she gets all the attention
you're the best neighbor that anyone could wish for
they haven't decided where to spend their vacation
he's never been outside his own country
the artist mixed blue and yellow to make green
our flight was delayed and we slept at the airport
she plays chess better than anyone in her class
the hungry children ate everything on their plates
"""


def fillings(pattern, count, rng):
    """`count` distinct sentences of a pattern; each choice goes through its fillers in a shuffled order."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [p.split("|") for p in parts[1::2]]
    for c in choices:
        rng.shuffle(c)
    seen, out = set(), []
    for k in range(count * 4):
        # Beyond the first round the orders are shifted against each other.
        picks = [c[(k + (k // len(c)) * j) % len(c)] for j, c in enumerate(choices)]
        s = "".join(p + (picks[j] if j < len(picks) else "") for j, p in enumerate(parts[0::2]))
        if s not in seen:
            seen.add(s)
            out.append(s)
        if len(out) == count:
            break
    return out


def lines(text):
    return [ln for ln in text.split("\n") if ln and not ln.startswith("#")]


def main():
    rng = random.Random(15223)
    seen = set()
    for part in ("train", "valid"):
        sentences = lines(PLAIN[part])
        for pattern in lines(PATTERNS[part]):
            sentences += fillings(pattern, FILLINGS[part], rng)
        rng.shuffle(sentences)
        for s in sentences:
            assert re.fullmatch(r"[a-z' ]+", s) and "  " not in s, s
            if s not in seen:
                seen.add(s)
                print(part, s, sep="\t")


if __name__ == "__main__":
    main()
