//! Who is in the shop, and what it sells.

use super::chance::Dice;

/// A seller.
pub(super) struct SellerRole {
    pub(super) email: &'static str,
    pub(super) name: &'static str,
}

pub(super) const SELLERS: [SellerRole; 4] = [
    SellerRole {
        email: "seller@jangbu.dev",
        name: "장부 카페",
    },
    SellerRole {
        email: "bakery@jangbu.dev",
        name: "새벽 베이커리",
    },
    SellerRole {
        email: "farm@jangbu.dev",
        name: "푸른 농장",
    },
    SellerRole {
        email: "paper@jangbu.dev",
        name: "한지 문구",
    },
];

/// Something that is sold.
pub(super) struct Good {
    pub(super) sku: &'static str,
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// In the currency's smallest unit.
    pub(super) price: i64,
    /// Whose it is, as a place in [`SELLERS`].
    pub(super) seller: usize,
    /// How often it is wanted, against the others.
    pub(super) weight: u64,
    /// Whether its stock is counted.
    pub(super) counted: bool,
}

const fn good(sku: &'static str, name: &'static str, price: i64, seller: usize, weight: u64, description: &'static str) -> Good {
    Good {
        sku,
        name,
        description,
        price,
        seller,
        weight,
        counted: true,
    }
}

/// The last but one goes off the shelf when half the time is over; the last has no stock to run out of.
pub(super) const GOODS: [Good; 20] = [
    good("BEANS-HOUSE", "House blend 200 g", 14_000, 0, 14, "Roasted on Mondays"),
    good("BEANS-ETHIOPIA", "Ethiopia Guji 200 g", 19_000, 0, 8, "Washed, light roast"),
    good("BEANS-DECAF", "Decaf 200 g", 16_000, 0, 4, "Swiss water process"),
    good("DRIP-BAGS", "Drip bags, ten", 12_000, 0, 10, "Ten cups, one each"),
    good("COLD-BREW", "Cold brew 500 ml", 9_000, 0, 9, "Keeps for ten days in the fridge"),
    good("MUG", "Stoneware mug", 18_000, 0, 3, "350 ml, made by hand"),
    good("SOURDOUGH", "Sourdough loaf", 8_500, 1, 12, "Baked at night, sent in the morning"),
    good("BAGELS", "Bagels, six", 11_000, 1, 8, "Plain, sesame and onion"),
    good("FINANCIERS", "Financiers, eight", 13_000, 1, 6, "Butter, almond, sea salt"),
    good("GRANOLA", "Granola 400 g", 9_800, 1, 7, "Oats, nuts and maple"),
    good("CASTELLA", "Castella", 15_000, 1, 5, "Honey sponge cake"),
    good("EGGS", "Free-range eggs, twenty", 10_500, 2, 11, "Laid this week"),
    good("TOMATOES", "Tomatoes 2 kg", 13_500, 2, 8, "From the greenhouse"),
    good("POTATOES", "Potatoes 3 kg", 9_900, 2, 7, "Waxy, for boiling"),
    good("HONEY", "Acacia honey 500 g", 21_000, 2, 4, "From one valley"),
    good("NOTEBOOK", "Hanji notebook", 7_000, 3, 6, "96 pages, bound with thread"),
    good("INK", "Pine soot ink", 23_000, 3, 2, "60 ml"),
    good("BRUSH", "Writing brush", 32_000, 3, 1, "Weasel hair"),
    good("STRAWBERRIES", "Strawberries 1 kg", 24_000, 2, 6, "While the season lasts"),
    Good {
        counted: false,
        ..good("GIFT-CARD", "Gift card", 10_000, 0, 4, "Never out of stock")
    },
];

/// The one that goes off the shelf.
pub(super) const SEASONAL: usize = GOODS.len() - 2;

/// The one that is always there.
pub(super) const UNCOUNTED: usize = GOODS.len() - 1;

const FAMILY: [(&str, &str); 16] = [
    ("김", "kim"),
    ("이", "lee"),
    ("박", "park"),
    ("최", "choi"),
    ("정", "jung"),
    ("강", "kang"),
    ("조", "cho"),
    ("윤", "yoon"),
    ("장", "jang"),
    ("임", "lim"),
    ("한", "han"),
    ("오", "oh"),
    ("서", "seo"),
    ("신", "shin"),
    ("권", "kwon"),
    ("황", "hwang"),
];

const GIVEN: [(&str, &str); 20] = [
    ("민지", "minji"),
    ("서연", "seoyeon"),
    ("지우", "jiwoo"),
    ("하은", "haeun"),
    ("도윤", "doyun"),
    ("시우", "siwoo"),
    ("예준", "yejun"),
    ("수아", "sua"),
    ("지호", "jiho"),
    ("유진", "yujin"),
    ("현우", "hyunwoo"),
    ("채원", "chaewon"),
    ("건우", "gunwoo"),
    ("다은", "daeun"),
    ("준서", "junseo"),
    ("소율", "soyul"),
    ("은우", "eunwoo"),
    ("지아", "jia"),
    ("선우", "sunwoo"),
    ("나윤", "nayoon"),
];

const STREETS: [(&str, &str, &str); 8] = [
    ("세종대로", "서울", "04524"),
    ("테헤란로", "서울", "06164"),
    ("해운대로", "부산", "48094"),
    ("동성로", "대구", "41943"),
    ("금남로", "광주", "61473"),
    ("대덕대로", "대전", "35209"),
    ("연오랑로", "포항", "37683"),
    ("한라대로", "제주", "63122"),
];

pub(super) const CHANGED_THEIR_MIND: [&str; 4] = ["ordered twice", "found it nearby", "wrong address", "changed my mind"];

/// What somebody says of themselves.
pub(super) struct Person {
    pub(super) email: String,
    pub(super) name: String,
    pub(super) phone: String,
    /// Where they live, as an order's address holds it.
    pub(super) address: String,
}

impl Person {
    /// The buyer with this number. The first is the demo's.
    pub(super) fn buyer(number: usize, dice: &mut Dice) -> Self {
        let (family, given) = (dice.pick(&FAMILY), dice.pick(&GIVEN));
        let (street, city, postal_code) = dice.pick(&STREETS);
        let name = format!("{}{}", family.0, given.0);
        let phone = format!("010-{:04}-{:04}", dice.below(10_000), dice.below(10_000));
        let email = match number {
            0 => "buyer@jangbu.dev".to_owned(),
            _ => format!("{}.{}{number}@example.com", given.1, family.1),
        };
        let address = serde_json::json!({
            "recipient": name, "street": format!("{street} {}", dice.between(1, 300)), "city": city, "postalCode": postal_code, "phone": phone,
        });
        Self {
            email,
            name,
            phone,
            address: address.to_string(),
        }
    }
}
